"""Plans from recipe to report, on tiny models in folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.errors import PipelineError, RecipeError
from unspoken.kept import digested
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.pipelines import curves
from unspoken.relay.relay import Relay
from unspoken.studies.teams import PlanReport, Terms, plan_team
from unspoken.studies.teams.section import chart

TEAM = "studies.teams.terms={budgets: [4, 8, 16, 64], leaf: 8, budget: 120, window: 100}"


def recipe(bench: Bench, *more: str) -> RelayRecipe:
    found = load_recipe("plan", bench.settings(TEAM, "studies.teams.lengths=[2]", *more))
    assert isinstance(found, RelayRecipe)
    return found


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, PlanReport]:
    """A whole plan, made once; tests only read it."""
    bench = Bench(tmp_path_factory.mktemp("plan"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_study("teams", recipe(bench))


def test_a_plan_has_a_law_votes_and_teams(finished: tuple[Bench, PlanReport]) -> None:
    _, report = finished
    assert [one.budget for one in report.solos] == [4, 8, 16, 64]
    assert [one.read for one in report.solos][:3] == [4, 8, 16]
    assert report.solos[3].read == report.limits.most > 16  # the whole fact
    assert report.solos[3].rho.value == 1.0  # who reads the same decides the same
    assert [one.name for one in report.votes] == [
        "no channel, counted",
        "full-text, tuned reader, 2 tokens",
        "full-text, tuned reader, whole",
        "text, tuned reader, 2 tokens",
        "text, tuned reader, whole",
        "embedding, 2 positions",
        "embedding, whole",
    ]
    for one in report.votes:
        assert -1 <= one.gamma.low <= one.gamma.value <= one.gamma.high <= 1
        assert one.spent == pytest.approx(3 * (8 + one.cost))
        assert one.alone_read <= report.limits.most
        assert one.cost == pytest.approx(one.positions * (2 if one.channel[:5] == "text," else 1))
        assert one.difference.value == pytest.approx((one.measured - one.alone_measured) / 2)
    counted = report.votes[0]
    assert (counted.gamma.value, counted.cost, counted.unsaid) == (1.0, 0.0, None)
    assert counted.heard == counted.said
    assert report.votes[5].positions == 2
    assert all(one.channel != "no channel" for one in report.options)
    assert len({one.unsaid for one in report.votes[3:5]}) == 1  # the message cannot matter
    assert report.options
    assert report.gain is not None
    best = report.options[0]
    assert report.gain.value == pytest.approx(best.bias - report.alone)
    assert report.played is not None
    mean, error = report.played
    assert abs(mean - best.bias) < 4 * error


def test_the_report_holds_what_was_found(finished: tuple[Bench, PlanReport]) -> None:
    bench, report = finished
    found = json.loads((bench.out / "plan.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(digested(report.to_dict()), allow_nan=False))
    assert (found["seed"], found["verdict"]) == (0, report.verdict)
    text = (bench.out / "plan.md").read_text(encoding="utf-8")
    for line in (*report.findings(), "plan.svg", "| embedding | whole |"):
        assert line in text
    assert (bench.out / "plan.svg").read_text().startswith("<?xml")
    better = report.gain is not None and report.gain.value > 0
    said = "this team is" if better else "a single agent with this budget is"
    assert report.verdict.startswith(f"{said} predicted better")


def test_another_budget_measures_nothing_again(
    finished: tuple[Bench, PlanReport],
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    report, bench = finished[1], Bench(tmp_path, folders)
    shutil.copytree(finished[0].out, bench.out)
    counter = Counter(monkeypatch)
    again = run_study("teams", recipe(bench, "studies.teams.terms.budget=12"))
    assert (counter.passes, counter.fits) == (0, [])
    assert again.votes == report.votes
    assert not again.options
    assert again.gain is None
    assert "use a single agent: 12 tokens are too few" in again.verdict
    assert again.verdict in again.markdown()
    json.dumps(again.to_dict(), allow_nan=False)


def test_the_chart_shows_every_budget_and_team(finished: tuple[Bench, PlanReport]) -> None:
    _, report = finished
    alone, teams = chart(report).panels
    (line,) = alone.lines
    assert [(dot.x, dot.y) for dot in line.dots] == [
        (one.read, one.bias.value) for one in report.solos
    ]
    shown = {(dot.x, dot.y) for line in teams.lines for dot in line.dots}
    best = report.options[0]
    assert (best.team.leaves, best.bias) in shown
    assert {leaves for leaves, _ in shown} == {one.team.leaves for one in report.options}
    assert len({line.number for line in (*alone.lines, *teams.lines)}) == 1 + len(teams.lines)
    assert [guide.value for guide in teams.across] == [report.alone]


@pytest.mark.parametrize("kind", ["text, verbatim: true", "handoff"])
def test_a_message_that_says_it_all_has_full_fidelity(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, folders)
    same = f"pair.sender.model={folders['receiver']}"
    line = f"comparison.channels=[{{name: all, channel: {{kind: {kind}}}}}]"
    report = run_study("teams", recipe(bench, same, line, "studies.teams.lengths=[]"))
    counted, vote = report.votes
    assert vote.gamma.value == 1.0
    assert (vote.heard, vote.measured) == (counted.said, counted.measured)
    assert vote.unsaid is not None


def test_agents_of_two_models_are_not_planned_together(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, folders)
    own = "comparison.channels=[{name: own, sender: receiver, channel: {kind: handoff}}]"
    with pytest.raises(
        RecipeError, match=r"channels \['own'\] have the receiver's weights as sender"
    ):
        recipe(bench, own)
    with pytest.raises(RecipeError, match=r"channels \['oracle'\] have the receiver's weights"):
        recipe(bench, "comparison.channels=[oracle]")
    with pytest.raises(
        RecipeError, match=r"studies\.teams: takes task\.protocol=private, got 'shared'"
    ):
        recipe(bench, "task.protocol=shared")
    relay = Relay.of(recipe(bench, "comparison.channels=[]"))
    told = bench.recipe("comparison.channels=[{name: all, channel: {kind: text, verbatim: true}}]")
    lines = dict(curves(replace(relay.same_model, recipe=told)))
    with pytest.raises(PipelineError, match="make a plan for each sender"):
        plan_team(lines, relay.decider(), relay.task, Terms(budgets=(2, 4, 8)))
