"""The studies that a recipe lists, and what it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import Bench, run_study
from unspoken.errors import RecipeError
from unspoken.recipe import load_recipe, measurements
from unspoken.relay.train import train_by


def test_a_recipe_is_measured_in_its_order(bench: Bench) -> None:
    recipe = load_recipe("relay", bench.settings())
    found = measurements(recipe)
    assert [one.study.name for one in found] == ["comparison", "information"]
    assert [one.settings for one in found] == list(recipe.studies.values())
    assert {one.out for one in found} == {bench.out}
    (named,) = measurements(recipe, "information")
    assert named == found[1]


def test_a_study_that_is_not_listed_is_refused(bench: Bench) -> None:
    recipe = load_recipe("relay", bench.settings())
    with pytest.raises(RecipeError, match="lists no study 'rate', but comparison, information; "):
        measurements(recipe, "rate")
    with pytest.raises(RecipeError, match=r"lists no studies.* may list: comparison, "):
        measurements(bench.recipe())
    assert not bench.out.exists()


def test_a_measurement_writes_its_file_with_the_recipe(bench: Bench) -> None:
    report = run_study("comparison", bench.recipe("comparison.channels=[full-text]"))
    assert report.channels == ["full-text", "full-text, tuned reader"]
    kept = bench.results()["notes"]["recipe"]
    assert kept["studies"] == {"comparison": {"bits": None}}
    assert kept["comparison"]["channels"] == ["full-text"]


def test_a_recipe_trains_its_projector_once(bench: Bench) -> None:
    recipe = load_recipe("relay", bench.settings("comparison=null", "studies={}"))
    trained = train_by(recipe)
    assert trained.what == "projector"
    assert trained.folder.parent == bench.out / "trained"
    assert (trained.folder / "pair.json").exists()
    assert trained.parameters > 1000
    stamp = (trained.folder / "model.safetensors").stat().st_mtime_ns
    assert train_by(recipe) == trained
    assert (trained.folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_pipeline_trains_nothing(tmp_path: Path) -> None:
    recipe = load_recipe("planner_solver", [f"out={tmp_path}"])
    with pytest.raises(RecipeError, match="a recipe of kind 'pipeline' trains nothing"):
        train_by(recipe)
