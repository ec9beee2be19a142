"""A comparison of planners: the study of blame and that of channels, by one recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.studies.planner.recipes import whole, written
from unspoken.backbone import Backbone
from unspoken.cli import main
from unspoken.pipeline import Pipeline
from unspoken.results import run_again
from unspoken.studies.comparison import Report, run_comparison
from unspoken.studies.planner import PlannerExecutorRecipe, run_planner

BESIDE = ", causal planner"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]
) -> tuple[PlannerExecutorRecipe, Report]:
    home = tmp_path_factory.mktemp("planners")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(home / "cache"))
        sweep = ("channels=[full-text,text,embedding]", "sweep={steps: [2]}")
        recipe = whole(written(home, tiny("llama")), home, *sweep)
        return recipe, run_comparison(recipe)


def test_planners_are_compared_with_all_controls(
    finished: tuple[PlannerExecutorRecipe, Report],
) -> None:
    _, report = finished
    for name in ("embedding", f"embedding{BESIDE}", "embedding, steps=2"):
        conditions = [arm.condition for arm in report.arms if arm.channel == name]
        assert conditions == ["none", "matched", "deranged", "constant"]
        assert report.worth(name).over_constant is not None
    text, latent = (report.arm(name, "matched") for name in ("text", "embedding"))
    assert text.passes > 4  # four steps of the planner, and the executor's
    assert text.passes > report.arm("text, steps=2", "matched").passes
    assert text.tokens_written > report.arm("text", "none").tokens_written
    assert latent.wire_bytes > text.wire_bytes
    assert report.notes["planning"]["tokens"] == 12
    assert report.notes["training_seconds"] > 0


def test_blame_asks_nothing_that_was_compared(
    finished: tuple[PlannerExecutorRecipe, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, report = finished
    monkeypatch.setattr(Pipeline, "run_many", None)
    for one in run_planner(recipe).blame:
        assert one.right == sum(report.arm(one.channel, "matched").correct)


def test_one_command_compares_and_blames(
    finished: tuple[PlannerExecutorRecipe, Report],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, report = finished
    monkeypatch.setattr("unspoken.recipe.load_recipe", lambda *_: recipe)

    def told(*more: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["compare", "planner_executor", *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    found: dict[str, Any] = json.loads(told("--json"))
    saved = json.loads((recipe.out / "blame.json").read_text())
    assert found["blame"] == saved["blame"]
    assert list(found["channels"]) == report.channels
    text = told()
    assert "whose fault" in text
    assert f"blame.json, the report and predictions to {recipe.out}" in text.replace("\n", "")


def test_both_are_computed_again(
    finished: tuple[PlannerExecutorRecipe, Report], tmp_path: Path
) -> None:
    recipe, _ = finished
    run_planner(recipe)
    run_again(recipe.out, tmp_path / "again")
    one, two = (
        json.loads((folder / "blame.json").read_text())["blame"]
        for folder in (recipe.out, tmp_path / "again")
    )
    assert one == two
    assert (tmp_path / "again" / "results.json").exists()
