"""Which channel pays, from recipe to page, on tiny models in folders."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.errors import DataError, MissingExtra, RecipeError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.result import about_machine
from unspoken.evaluation.statistics import Difference
from unspoken.evaluation.timing import Timed
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.relay import Relay
from unspoken.results import read_results, write_page
from unspoken.studies.fronts import (
    Channelled,
    Clock,
    FrontsReport,
    Seconds,
    front,
    fronts,
)
from unspoken.studies.fronts.section import chart
from unspoken.tasks import load_task

POOLED = "{name: pooled, projector: {kind: embedding, layers: [1], hidden: 16, vectors: 2}}"


def recipe_of(bench: Bench, *more: str) -> RelayRecipe:
    small = [
        "warmup.lr=1e-3",
        "projector.width=48",
        "projector.texts=8",
        "studies.fronts.notes=[2,4]",
        "studies.fronts.excerpts=[3]",
    ]
    found = load_recipe(
        "fronts",
        bench.settings(
            *small, "studies.fronts.timed=2", f"studies.fronts.trained=[{POOLED}]", *more
        ),
    )
    assert isinstance(found, RelayRecipe)
    return found


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, FrontsReport]:
    bench = Bench(tmp_path_factory.mktemp("fronts"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_study("fronts", recipe_of(bench))


def answers(bench: Bench, name: str) -> list[str]:
    lines = (bench.out / "predictions" / f"{name}-matched.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def test_every_arm_is_asked_in_its_class(measured: tuple[Bench, FrontsReport]) -> None:
    _, report = measured
    notes = ["note of 2 tokens", "note of 4 tokens"]
    twice = ["full-text", *notes, "first 3 tokens", "handoff"]
    blind = [*twice, "memory", "cache", "pooled"]
    tuned = [f"{name}, tuned reader" for name in twice]
    found = ["found sentences, 1", "found sentences, 2"]
    asked = ["layers", *found, *(f"{name}, tuned reader" for name in found)]
    assert {arm.name for arm in report.of_class(asked=False)} == {*blind, *tuned}
    assert {arm.name for arm in report.of_class(asked=True)} == set(asked)
    kinds = {arm.name: arm.kind for arm in report.arms}
    assert (kinds["full-text"], kinds["note of 2 tokens"]) == ("verbatim", "words")
    assert kinds["first 3 tokens"] == "words"
    assert {kinds[name] for name in ("memory", "cache", "handoff", "pooled", "layers")} == {
        "latent"
    }
    constant = {arm.name: arm.constant for arm in report.arms}
    assert [name for name, arm in constant.items() if arm is not None] == ["memory"]


def test_a_cache_answers_as_the_text_does_with_either_reader(
    measured: tuple[Bench, FrontsReport],
) -> None:
    bench, _ = measured
    assert answers(bench, "cache") == answers(bench, "full-text")
    for reader in ("", ", tuned reader"):
        assert answers(bench, f"handoff{reader}") == answers(bench, f"full-text{reader}")
    assert answers(bench, "full-text") != answers(bench, "full-text, tuned reader")


def test_costs_are_counted_for_each_side(measured: tuple[Bench, FrontsReport]) -> None:
    arms = {arm.name: arm for arm in measured[1].arms}
    text, handed, note = (arms[name] for name in ("full-text", "handoff", "note of 2 tokens"))
    assert (text.sender_read, text.sender_written) == (0, 0)
    assert handed.receiver_read < text.receiver_read
    assert 0 < note.sender_written <= 2
    assert handed.matched.wire_bytes > arms["cache"].matched.wire_bytes > text.matched.wire_bytes
    assert all(len(arm.clock.items) == 2 for arm in arms.values())
    for arm in arms.values():
        first, second = (arm.clock.answer(clock) for clock in ("nothing read", "sender has read"))
        assert (first > second) == (arm.sender_read > 0), arm.name


def test_a_second_run_computes_nothing_and_a_page_shows_it(
    measured: tuple[Bench, FrontsReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, report = measured
    counter = Counter(monkeypatch)
    again = run_study("fronts", recipe_of(bench))
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert [arm.clock for arm in again.arms] == [arm.clock for arm in report.arms]
    (read,) = read_results(bench.out)
    assert isinstance(read.report, FrontsReport)
    assert read.report.findings() == again.findings()
    page = write_page(bench.out).read_text(encoding="utf-8")
    text = (bench.out / "fronts.md").read_text(encoding="utf-8")
    assert "Which channel pays?" in page
    assert all(line in text for line in again.findings())
    assert text.count("\n| ") == len(report.arms) + 1
    assert (bench.out / "fronts.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("task.protocol=shared", "saves nothing by a message"),
        ("comparison.channels=[memory]", "add full-text to the channels"),
        ("studies.fronts.notes=[8]", "set prompts.note_tokens=8"),
        ("studies.fronts.sentences=[0]", "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(bench: Bench, change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe_of(bench, change)


def test_a_front_needs_the_whole_text(bench: Bench) -> None:
    relay = bench.relay()
    with pytest.raises(DataError, match="no arm passes it on"):
        fronts({"note": relay.text()}, load_task(relay.recipe.task))


def test_without_a_tuned_reader_nothing_is_trained_for_text(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    more = [f"studies.fronts.{one}=[]" for one in ("notes", "excerpts", "sentences", "trained")]
    recipe = recipe_of(bench, "comparison.channels=[full-text]", "comparison.reader=null", *more)
    report = run_study("fronts", recipe)
    assert [arm.name for arm in report.arms] == ["full-text", "handoff"]
    assert counter.fits == []


def test_a_missing_library_is_named_before_anything_is_trained(
    bench: Bench, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtra, match=r"unspoken\[search\]"):
        run_study("fronts", recipe_of(bench))
    assert (counter.passes, counter.fits) == (0, [])


# The rule, on numbers made by hand ----------------------------------------------------------------


def arm(
    name: str,
    kind: Any,
    right: int,
    seconds: float,
    *,
    reading: float = 0.0,
    asked: bool = False,
    content: float = 0.1,
    loss: float = -0.01,
) -> Channelled:
    """An arm with `right` of 100 answers, `seconds` after the sender has read."""
    found = Arm(
        channel=name,
        condition="matched",
        n=100,
        accuracy=right / 100,
        ci_low=right / 100,
        ci_high=right / 100,
        tokens_read=10,
        tokens_written=2,
        passes=1,
        wire_bytes=1000,
        seconds=seconds,
    )
    item = Seconds(reading, 0.0, 0.0, seconds / 2, seconds / 2)
    here = Timed("2026-01-01", "none", 1, 1, "none", None, "none", 1)
    return Channelled(
        name=name,
        kind=kind,
        asked=asked,
        matched=found,
        none=found,
        deranged=found,
        constant=None,
        sender_read=5,
        sender_written=0,
        receiver_read=5,
        receiver_written=2,
        gain=Difference(0.1, 0.05, 0.15, 0.01),
        content=Difference(content, content - 0.05, content + 0.05, 0.01),
        against=Difference(loss + 0.01, loss, loss + 0.02, 1.0),
        clock=Clock((item,), True, here),
    )


def report_of(*arms: Channelled) -> FrontsReport:
    task = {"name": "mine", "protocol": "private", "split": "test", "items": 100}
    made: dict[str, Any] = dict(models=[], task=task, seed=0, notes={}, **about_machine())
    return FrontsReport(arms=arms, **made)


TEXT = arm("full-text", "verbatim", 30, 1.0)


def test_the_front_is_what_no_arm_beats() -> None:
    arms = [arm("a", "words", 10, 0.1), arm("b", "words", 9, 0.2), arm("c", "words", 30, 0.5)]
    arms += [arm("d", "latent", 30, 0.6), arm("e", "latent", 12, 0.1)]
    found = front(arms, lambda one: one.clock.answer("nothing read"))
    assert [one.name for one in found] == ["e", "c"]


@pytest.mark.parametrize(
    ("rival", "own", "expected"),
    [
        (arm("note", "words", 31, 0.5), {}, True),  # no more than two points better
        (arm("note", "words", 33, 0.5), {}, False),
        (arm("note", "words", 33, 0.7), {}, True),  # better, but slower
        (arm("found", "words", 60, 0.1, asked=True), {}, True),  # of the other class
        (arm("other", "latent", 60, 0.1), {}, True),  # no text arm
        (arm("note", "words", 1, 0.5), {"content": 0.04}, False),  # presence only
        (arm("note", "words", 1, 0.5), {"seconds": 1.1}, False),  # slower than the text
    ],
)
def test_who_is_on_the_front(rival: Channelled, own: dict[str, Any], expected: bool) -> None:
    mine = arm("memory", "latent", 30, **{"seconds": 0.6, **own})
    assert report_of(TEXT, rival, mine).pays(mine, "sender has read") is expected


def test_a_sentence_says_if_content_is_not_shown() -> None:
    found = report_of(TEXT, arm("memory", "latent", 30, 0.4, content=0.04)).findings()
    assert found[1].endswith("full-text 30.0 % in 1.00 s. The content of memory is not shown")


def test_reading_counts_on_one_clock_only() -> None:
    mine = arm("handoff", "latent", 30, 0.4, reading=2.0)
    report = report_of(TEXT, mine)
    assert not report.pays(mine, "nothing read")
    assert report.halves(mine, "sender has read")
    first, second, half = report.findings()
    assert first.startswith("If nobody has read the text yet, no latent channel is on the front")
    assert second.startswith("Once the sender has read, handoff is on the front: 30.0 % in 0.40 s")
    assert "2.5 times as fast" in second
    assert half.startswith("Once the sender has read, handoff answers in 40 % [")


@pytest.mark.parametrize("own", [{"seconds": 0.6}, {"loss": -0.04}, {"content": 0.02}])
def test_a_halved_time_needs_time_accuracy_and_content(own: dict[str, Any]) -> None:
    mine = arm("memory", "latent", 30, **{"seconds": 0.4, **own})
    report = report_of(TEXT, mine)
    assert not report.halves(mine, "sender has read")
    assert report.findings()[-1].startswith("No channel is shown to take half the time of the text")


def test_who_comes_nearest_to_half_the_time_is_told() -> None:
    near, far = (arm(f"n{n}", "latent", 30, n / 10) for n in (6, 8))
    (*_, last) = report_of(
        TEXT, far, near, arm("empty", "latent", 30, 0.55, content=0.0)
    ).findings()
    assert "Once the sender has read, n6 takes 60 % [0, inf] of the text's time, +0.0 [" in last


def test_the_picture_has_every_arm_and_a_front_for_each_class() -> None:
    asked = arm("found sentences, 1", "words", 40, 0.2, asked=True)
    tuned = replace(TEXT, name="full-text, tuned reader")
    panels = chart(report_of(TEXT, tuned, asked)).panels
    assert [panel.x.label for panel in panels][1:3] == [
        "seconds to the answer, sender has read",
        "bytes on the wire",
    ]
    for panel in panels:
        dots = {line.name: len(line.dots) for line in panel.lines}
        assert dots == {
            "full-text": 2,
            "found sentences": 1,
            "front, blind": 0,
            "front, asked": 0,
        }
    note = arm("note of 4 tokens", "words", 20, 0.6)
    blind, last = chart(report_of(TEXT, note, asked)).panels[1].lines[3:]
    assert blind.path == ((0.6, 20.0), (1.0, 20.0), (1.0, 30.0), (1.0, 30.0))
    assert last.path == ((0.2, 40.0), (1.0, 40.0))


def test_a_relay_finds_sentences_for_its_question(bench: Bench) -> None:
    text = "Ada has a cat. Bo keeps two dogs. It was late."
    pipeline = Relay.of(bench.recipe()).sentences(count=1)
    (turn, _) = pipeline.run({"context": text, "question": "How many dogs does Bo keep?"}).turns
    assert (turn.text, turn.usage.read) == ("Bo keeps two dogs.", 0)
