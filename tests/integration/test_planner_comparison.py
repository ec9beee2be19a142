"""A comparison of planners: the study of blame and that of channels, by one recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import run_study
from tests.studies.planner.recipes import whole, written
from unspoken.backbone import Backbone
from unspoken.errors import RecipeError
from unspoken.pipeline import Pipeline
from unspoken.recipe import RelayRecipe, measurements
from unspoken.relay.train import train_by
from unspoken.results import run_again
from unspoken.studies.comparison import Report
from unspoken.studies.planner import PlannerReport

BESIDE = ", causal planner"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]
) -> tuple[RelayRecipe, Report]:
    home = tmp_path_factory.mktemp("planners")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(home / "cache"))
        sweep = (
            "comparison.channels=[full-text,text,embedding]",
            "studies.planner.sweep={steps: [2]}",
        )
        recipe = whole(written(home, tiny("llama")), home, *sweep)
        return recipe, run_study("comparison", recipe)


def test_planners_are_compared_with_all_controls(
    finished: tuple[RelayRecipe, Report],
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
    finished: tuple[RelayRecipe, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, report = finished
    monkeypatch.setattr(Pipeline, "run_many", None)
    for one in run_study("planner", recipe).blame:
        assert one.right == sum(report.arm(one.channel, "matched").correct)


def test_one_recipe_compares_and_blames(finished: tuple[RelayRecipe, Report]) -> None:
    recipe, report = finished
    compared, blamed = (one.run() for one in measurements(recipe))
    assert isinstance(compared, Report)
    assert compared.channels == report.channels
    assert isinstance(blamed, PlannerReport)
    saved = json.loads((recipe.out / "blame.json").read_text())
    assert list(blamed.to_dict()["blame"]) == saved["blame"]


def test_the_planner_is_what_such_a_recipe_trains(finished: tuple[RelayRecipe, Report]) -> None:
    recipe, _ = finished
    trained = train_by(recipe)
    assert trained.what == "planner"
    assert trained.folder.parent == recipe.out / "trained"
    assert trained.parameters > 1000


def test_a_study_that_would_measure_the_untaught_sender_is_refused(
    tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    settings = written(tmp_path, tiny("llama"))
    with pytest.raises(RecipeError, match=r"studies\.planner: telephone would measure the sender"):
        whole(settings, tmp_path, "studies.telephone.hops=2")


def test_both_are_computed_again(finished: tuple[RelayRecipe, Report], tmp_path: Path) -> None:
    recipe, _ = finished
    run_study("planner", recipe)
    run_again(recipe.out, tmp_path / "again")
    one, two = (
        json.loads((folder / "blame.json").read_text())["blame"]
        for folder in (recipe.out, tmp_path / "again")
    )
    assert one == two
    assert (tmp_path / "again" / "results.json").exists()
