"""Planner and executor by recipe, and whose fault a wrong answer is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import run_study
from tests.studies.planner.recipes import whole
from unspoken.backbone import Backbone
from unspoken.errors import IncompatibleModels, RecipeError, TrainingError
from unspoken.evaluation.arm import Prediction
from unspoken.evaluation.items import query
from unspoken.kept import digested
from unspoken.pipeline import Pipeline
from unspoken.recipe import RelayRecipe
from unspoken.relay.pipelines import prepared
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, train_vectors
from unspoken.relay.trained import trained_pipeline
from unspoken.studies.planner import (
    Blame,
    PlannerRecipe,
    PlannerReport,
    PlannerSettings,
    attribute,
    holds,
    teaching,
    train_planner,
)
from unspoken.tasks import load_task
from unspoken.types import Usage

BESIDE = ", causal planner"


@pytest.fixture
def finished(settings: list[str], tmp_path: Path) -> tuple[RelayRecipe, PlannerReport]:
    recipe = whole(settings, tmp_path)
    return recipe, run_study("planner", recipe)


def taught(recipe: RelayRecipe) -> PlannerRecipe:
    """How the recipe's sender is taught."""
    settings = recipe.studies["planner"]
    assert isinstance(settings, PlannerSettings)
    return settings.recipe_for(recipe)


def rows(out: Path, arm: str) -> list[dict[str, Any]]:
    text = (out / "predictions" / f"{arm}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_both_planners_have_all_channels_and_controls(settings: list[str], tmp_path: Path):
    ready = prepared(whole(settings, tmp_path))
    assert list(ready.found.pipelines) == [
        "full-text",
        "full-text, tuned reader",
        "text",
        "text, tuned reader",
        "embedding",
        f"text{BESIDE}",
        f"text{BESIDE}, tuned reader",
        f"embedding{BESIDE}",
    ]
    assert list(ready.found.constants) == ["embedding", f"embedding{BESIDE}"]
    assert ready.found.notes["planning"]["tokens"] == 12
    assert ready.seconds > 0


def test_blame_is_about_every_channel_over_which_a_plan_was_written(
    finished: tuple[RelayRecipe, PlannerReport],
):
    recipe, report = finished
    assert [one.channel for one in report.blame] == [
        "text",
        "text, tuned reader",
        "embedding",
        f"text{BESIDE}",
        f"text{BESIDE}, tuned reader",
    ]
    assert all(one.plan + one.execution == one.wrong for one in report.blame)
    saved = json.loads((recipe.out / "blame.json").read_text())
    assert saved == json.loads(json.dumps(digested(report.to_dict())))
    assert [row["channel"] for row in saved["blame"]] == [one.channel for one in report.blame]
    assert list(report.table().columns[0].cells) == [one.channel for one in report.blame]
    trained = sorted(path.name.split("-")[0] for path in (recipe.out / "trained").glob("[!.]*"))
    assert trained == ["constant", "planner", "projector", "projector", "reader"]
    told, states = (rows(recipe.out, f"{name}-matched") for name in ("text", "embedding"))
    plans = [[row["messages"]["sender"] for row in arm] for arm in (states, told)]
    assert plans[0] == plans[1]  # the same canvas, in states and in words
    assert told[0]["usage"]["passes"] > 4  # four steps of the planner, and the executor's
    assert states[0]["usage"]["wire"] > told[0]["usage"]["wire"]


def test_a_second_run_reuses_everything(
    finished: tuple[RelayRecipe, PlannerReport],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    recipe, report = finished
    for place in (teaching, __import__("unspoken.relay.train", fromlist=["fit"])):
        monkeypatch.setattr(place, "fit", None)
    monkeypatch.setattr(Pipeline, "run_many", None)
    assert run_study("planner", recipe).blame == report.blame
    told = " ".join(capsys.readouterr().err.split())
    assert "20 items to train on, 4 to validate, 6 to test; shared facts" in told


def test_each_plan_length_has_a_projector_of_its_own_and_shares_the_rest(
    settings: list[str], tmp_path: Path
):
    recipe = whole(settings, tmp_path)
    task = load_task(recipe.task)
    planner, _ = train_planner(taught(recipe), task, recipe.out / "trained")
    executor = Backbone.from_pretrained(recipe.pair.receiver.model)
    homes: list[Path] = []
    for tokens in (12, 6):
        swept = recipe.planning.model_copy(update={"tokens": tokens})
        changed = recipe.model_copy(update={"planning": swept})
        relay = Relay(changed, planner, executor, task)
        projector, home = train_projector(relay, tmp_path / "trained")
        homes.append(home)
        train_vectors(relay, recipe.compared.reader, tmp_path / "trained", what="reader")
        message = _sent(trained_pipeline(relay, projector), [query(item) for item in task.test[:3]])
        assert message.payload.mask.sum(1).max() <= tokens
    assert homes[0] != homes[1]
    assert len(list((tmp_path / "trained").glob("reader-*"))) == 1  # it reads no plan


def _sent(line: Pipeline, queries: list[dict[str, str]]) -> Any:
    (heard,) = line.incoming(queries)
    return heard.message


def test_a_sweep_plans_in_other_ways_beside(settings: list[str], tmp_path: Path):
    sweep = "studies.planner.sweep={tokens: [6, 24], steps: [2, 4]}"
    recipe = whole(settings, tmp_path, "comparison.channels=[full-text,text,embedding]", sweep)
    report = run_study("planner", recipe)
    ways = [f"tokens={tokens}, steps={steps}" for tokens in (6, 24) for steps in (2, 4)]
    constants = prepared(recipe).found.constants
    for way in ways:
        assert f"text, {way}" in [one.channel for one in report.blame]
        assert f"embedding, {way}" in constants
    few, more = (rows(recipe.out, f"text, {way}-matched") for way in (ways[0], ways[1]))
    assert more[0]["usage"]["passes"] > few[0]["usage"]["passes"]
    assert len(list((recipe.out / "trained").glob("projector-*"))) == 1 + 4 + 1
    assert len(list((recipe.out / "trained").glob("reader-*"))) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            "studies.planner.sweep={tokens: [0]}",
            "sweep.tokens: Input should be greater than or equal to 1",
        ),
        ("studies.planner.sweep={tokens: []}", "studies.planner.sweep.tokens: .*at least 1 item"),
        (
            "studies.planner.teaching.canvas=[]",
            "studies.planner.teaching.canvas: .*at least 1 item",
        ),
        ("studies.planner.sweep={length: [4]}", "sweep.length: Extra inputs are not permitted"),
        (
            "studies.planner.sweep={tokens: [40]}",
            "plans have 40 tokens.*add 40 to teaching.canvas",
        ),
        ("planning.tokens=32", "no canvas longer than 24"),
    ],
)
def test_ways_to_plan_that_cannot_be_are_refused(
    settings: list[str], tmp_path: Path, wrong: str, words: str
):
    with pytest.raises(RecipeError, match=words):
        whole(settings, tmp_path, wrong)


def test_training_that_moves_a_frozen_model_is_refused(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = whole(settings, tmp_path)
    task = load_task(recipe.task)
    planner, _ = train_planner(taught(recipe), task, recipe.out / "trained")
    executor = Backbone.from_pretrained(recipe.pair.receiver.model)
    relay = Relay(recipe, planner, executor, task)
    real = planner.digest
    digests = iter([real(), "moved"])
    monkeypatch.setattr(planner, "digest", lambda: next(digests))
    with pytest.raises(TrainingError, match="changed the frozen weights of sender"):
        train_projector(relay, tmp_path / "trained")


def test_a_causal_model_without_training_is_no_planner(settings: list[str], tmp_path: Path):
    with pytest.raises(
        IncompatibleModels, match=r"is a causal model; give teaching.training.steps"
    ):
        run_study("planner", whole(settings, tmp_path, "studies.planner.teaching.training.steps=0"))


def test_a_comparison_needs_its_oracle_plan(settings: list[str], tmp_path: Path):
    with pytest.raises(RecipeError, match="channels must name full-text"):
        whole(settings, tmp_path, "comparison.channels=[text]")


def answered(given: Sequence[tuple[str, bool, str | None]]) -> list[Prediction]:
    """Items with their answer, whether it was given, and the plan if one was written."""
    return [
        Prediction(
            id=str(n),
            question="?",
            answers=(answer,),
            prediction="",
            correct=right,
            messages={} if plan is None else {"sender": plan},
            message_of=str(n),
            usage=Usage(),
            costs={},
        )
        for n, (answer, right, plan) in enumerate(given)
    ]


def test_a_wrong_answer_is_the_planners_or_the_executors_fault():
    oracle = answered([("tea", n < 3, None) for n in range(5)])
    plans = ["some tea here", "milk", "the tea", "teas", "tea"]
    asked = {
        "text": answered([("tea", n == 0, plan) for n, plan in enumerate(plans)]),
        "states": answered([("tea", False, None)] * 5),
    }
    (found,) = attribute(asked, oracle, "sender")
    assert found == Blame("text", n=5, right=1, plan=2, execution=2, oracle_plan=2)
    assert found.wrong == 4
    assert holds("It is TEA!", ["a tea"])
