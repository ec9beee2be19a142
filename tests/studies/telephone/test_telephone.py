"""The telephone game from recipe to report, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.channels import Handoff, TextChannel
from unspoken.errors import DataError, RecipeError
from unspoken.kept import digested
from unspoken.pipeline import Pipeline, Query, Run
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.relay import Relay
from unspoken.studies.telephone import (
    Players,
    TelephoneReport,
    play,
)
from unspoken.studies.telephone.section import chart


def recipe(bench: Bench, *more: str) -> RelayRecipe:
    found = load_recipe("telephone", bench.settings("studies.telephone.hops=3", *more))
    assert isinstance(found, RelayRecipe)
    return found


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, TelephoneReport]:
    """A whole game, played once; tests only read it."""
    bench = Bench(tmp_path_factory.mktemp("telephone"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_study(
            "telephone", recipe(bench, "comparison.channels=[full-text, embedding]")
        )


def rows(bench: Bench, name: str) -> list[dict[str, Any]]:
    path = bench.out / "predictions" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_every_hop_is_asked_with_the_right_and_the_wrong_message(
    finished: tuple[Bench, TelephoneReport],
) -> None:
    _, report = finished
    assert list(report.channels) == ["full-text, tuned reader", "embedding"]
    assert report.hops == 3
    for hops in report.channels.values():
        assert [one.hop for one in hops] == [1, 2, 3]
        first = hops[0]
        assert (first.drift.value, first.kept, first.words) == (0.0, 1.0, 1.0)
        for one in hops:
            assert one.matched.n == one.deranged.n == 6
            assert one.content.value == pytest.approx(one.matched.accuracy - one.deranged.accuracy)
            assert one.drift.value == pytest.approx(one.bits.value - first.bits.value)
            assert one.drift.low <= one.drift.value <= one.drift.high
            assert 0 <= one.words <= 1


def test_a_sender_reads_what_the_receiver_before_restated(
    finished: tuple[Bench, TelephoneReport],
) -> None:
    bench, report = finished
    for name, chains in report.told.items():
        said = [
            [row["prediction"] or "..." for row in rows(bench, f"{name}, hop {n}-restated")]
            for n in (1, 2)
        ]
        for number, (fact, *restated) in enumerate(chains):
            assert restated == [words[number] for words in said]
            assert fact not in restated


def test_the_report_holds_what_was_found(finished: tuple[Bench, TelephoneReport]) -> None:
    bench, report = finished
    found = json.loads((bench.out / "telephone.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(digested(report.to_dict())))
    text = (bench.out / "telephone.md").read_text(encoding="utf-8")
    for line in (*report.findings(), "telephone.svg", "| embedding | 3 |", "A hop: a sender reads"):
        assert line in text
    assert (bench.out / "telephone.svg").read_text().startswith("<?xml")


def test_the_chart_shows_every_hop(finished: tuple[Bench, TelephoneReport]) -> None:
    _, report = finished
    drawn = chart(report)
    assert [line.name for line in drawn.legend] == list(report.channels)
    for panel, value in (
        (drawn.panels[0], lambda one: 100 * one.matched.accuracy),
        (drawn.panels[1], lambda one: one.drift.value),
    ):
        named = [line for line in panel.lines if line.name]
        for line, hops in zip(named, report.channels.values(), strict=True):
            assert [(dot.x, dot.y) for dot in line.dots] == [(one.hop, value(one)) for one in hops]
    dotted = [line for line in drawn.panels[0].lines if line.dotted]
    for line, hops in zip(dotted, report.channels.values(), strict=True):
        assert [y for _, y in line.path] == [100 * one.deranged.accuracy for one in hops]


def test_more_hops_go_on_where_the_game_ended(
    finished: tuple[Bench, TelephoneReport],
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, folders)
    shutil.copytree(finished[0].out, bench.out)
    counter = Counter(monkeypatch)
    again = run_study("telephone", recipe(bench, "comparison.channels=[full-text, embedding]"))
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert again.channels == finished[1].channels
    longer = run_study(
        "telephone", recipe(bench, "comparison.channels=[embedding]", "studies.telephone.hops=4")
    )
    asked = ("hop 3, restated", "hop 4, matched", "hop 4, deranged")
    assert counter.arms == [*(f"embedding, {title}" for title in asked), "no message, none"]
    assert longer.channels["embedding"][:3] == again.channels["embedding"]


class Echo(Pipeline):
    """Restates to the letter, or says nothing at all."""

    def __init__(self, line: Pipeline, *, silent: bool = False) -> None:
        super().__init__(list(line.agents.values()), line.edges)
        self.silent = silent

    def run_many(self, queries: Sequence[Query], **_: Any) -> list[Run]:
        assert not any(isinstance(query, str) for query in queries)
        return [Run("" if self.silent else dict(query)["context"], ()) for query in queries]


def echoed(bench: Bench, *, silent: bool) -> TelephoneReport:
    relay = bench.relay("comparison.channels=[]")
    line = relay.pipeline_over(TextChannel(verbatim=True))
    echo = Echo(relay.restating(line), silent=silent)
    return play({"words": Players(line, echo)}, relay.task, hops=3, limit=6)


def test_nothing_drifts_where_all_is_restated_to_the_letter(bench: Bench) -> None:
    hops = echoed(bench, silent=False).channels["words"]
    assert [one.matched.correct for one in hops] == [hops[0].matched.correct] * 3
    assert [one.drift.value for one in hops] == [0.0] * 3
    assert [(one.kept, one.words) for one in hops] == [(1.0, 1.0)] * 3


def test_silence_is_passed_on_as_silence(bench: Bench) -> None:
    report = echoed(bench, silent=True)
    assert report.told["words"][0][1:] == ("...", "...")
    hops = report.channels["words"]
    assert hops[1].words == 0.0
    assert hops[1].matched.correct == hops[1].deranged.correct  # all messages are alike
    assert hops[1].bits == hops[2].bits != hops[0].bits


def test_whoever_restates_hears_what_the_solver_hears(bench: Bench) -> None:
    relay = bench.relay("comparison.channels=[]", "prompts.note_instructions=Notes.")
    tuned = relay.full_text(None)
    for line, template in (
        (tuned, "Fact:{messages}\nNote:"),
        (relay.same_model.pipeline_over(Handoff()), "{messages}\nNote:"),
    ):
        restating = relay.restating(line)
        assert restating.edges == line.edges
        role, settings = restating.answerer.role, restating.answerer.settings
        assert (role.instructions, role.template) == ("Notes.", template)
        assert (settings.max_tokens, settings.stop) == (4, ("\n",))
        sender = restating.agents["sender"].role
        assert sender.template == line.agents["sender"].role.template
        hands_over = line.agents["sender"].role.instructions == relay.instructions
        assert sender.instructions == ("Notes." if hands_over else "")


def test_a_cache_is_read_again_at_every_hop(bench: Bench) -> None:
    own = "sender: receiver, channel"
    line = f"comparison.channels=[{{name: cache, {own}: {{kind: handoff}}}}]"
    report = run_study(
        "telephone", recipe(bench, line, "studies.telephone.hops=2", "comparison.limit=4")
    )
    first, second = report.channels["cache"]
    assert second.bits.value != first.bits.value
    assert report.told["cache"][0][1]


def test_a_game_without_hops_or_secrets_is_refused(bench: Bench) -> None:
    with pytest.raises(
        RecipeError, match=r"studies\.telephone: takes task\.protocol=private, got 'closed'"
    ):
        recipe(bench, "task.protocol=closed")
    relay: Relay = bench.relay("comparison.channels=[]")
    line = relay.without_messages()
    with pytest.raises(DataError, match="two items and a hop"):
        play({"x": Players(line, line)}, relay.task, hops=0)
