"""Planner and executor by recipe, from the training of a diffusion planner to whose fault it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from unspoken.agents import Agent
from unspoken.backbone import Backbone, DiffusionBackbone, Masked
from unspoken.errors import DataError, IncompatibleModels, RecipeError, TrainingError
from unspoken.evaluation.items import query
from unspoken.pipeline import Edge, Pipeline, fields_of
from unspoken.projectors import EmbeddingProjector
from unspoken.recipe import PipelineRecipe, PlannerExecutorRecipe, PlannerRecipe, load_recipe
from unspoken.recipe.pipeline import build
from unspoken.relay.relay import Relay, note_role
from unspoken.relay.train import train_projector, train_vectors
from unspoken.studies.planner import teaching as planning
from unspoken.studies.planner.blame import Blame, attribute, holds
from unspoken.studies.planner.recipe import run_planner_executor
from unspoken.studies.planner.teaching import train_planner
from unspoken.tasks import load_task
from unspoken.testing import tiny_diffusion
from unspoken.training import History, Plan, Reconstruction, StoredThoughts, fit
from unspoken.training.denoised import Denoised
from unspoken.types import TEXT, Denoising


def items(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{n}",
            "context": f"{split[:2]}{n} has {'tea' if n % 2 else 'milk'} {n}.",
            "question": f"What has {split[:2]}{n}?",
            "answers": [f"{'tea' if n % 2 else 'milk'} {n}"],
        }
        for n in range(count)
    ]


@pytest.fixture
def settings(tmp_path: Path, tiny: Callable[..., Backbone]) -> list[str]:
    """A tiny causal model for all three parts, and a task, as a recipe's overrides."""
    model = tiny("llama")
    cast(Any, model.model).save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    for split, count in {"train": 24, "test": 6}.items():
        lines = (json.dumps(item) + "\n" for item in items(split, count))
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return [
        f"sender.model={tmp_path / 'model'}",
        f"task.train={tmp_path / 'train.jsonl'}",
        f"task.test={tmp_path / 'test.jsonl'}",
        "task.validation=4",
        "planner={mask: <turn>, canvas: [8, 24], validation: 4}",
        "planner.training={steps: 4, batch_size: 4, lr: 1.0e-3, warmup: 1, every: 2, bf16: false}",
        f"out={tmp_path / 'out'}",
    ]


def whole(settings: Sequence[str], tmp_path: Path, *more: str) -> PlannerExecutorRecipe:
    recipe = load_recipe(
        "planner_executor",
        [
            *settings,
            f"receiver.model={tmp_path / 'model'}",
            f"causal.model={tmp_path / 'model'}",
            "validation=4",
            "planning={tokens: 12, steps: 4, block: 6}",
            "prompts={instruction: Answer., shots: 1, note_lead: 'N. ', note_tokens: 4}",
            "projector.hidden=16",
            "projector.prompt=2",
            "warmup.steps=0",  # a random planner writes no words
            "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "reader.vectors=2",
            "constant.vectors=3",
            "limit=5",
            *more,
        ],
    )
    assert isinstance(recipe, PlannerExecutorRecipe)
    return recipe


def planner_recipe(settings: Sequence[str], *more: str) -> PlannerRecipe:
    recipe = load_recipe("planner", [*settings, *more])
    assert isinstance(recipe, PlannerRecipe)
    return recipe


# The objective -----------------------------------------------------------------------------------


class Training:
    """A tiny diffusion model that learns to copy short facts."""

    def __init__(self) -> None:
        self.model = tiny_diffusion("dream", seed=3)
        facts = [f"{a} {b}" for a in "abcd" for b in "wxyz"]
        planner = Agent("planner", self.model, role=note_role("", "private"))
        queries = [{"question": "?", "context": fact} for fact in facts]
        self.objective = Denoised(planner, queries, facts, canvas=(4, 8), validation=4)

    def fit(self, folder: Path, steps: int) -> History:
        plan = Plan(steps=steps, batch_size=6, lr=3e-3, warmup=2, every=10, bf16=False)
        self.model.model.requires_grad_(True)
        return fit(self.model.model, self.objective, plan, folder / "c.pt", title="planner")


def test_a_planner_learns(tmp_path: Path):
    training = Training()
    before = training.objective.validate()
    history = training.fit(tmp_path, 40)
    assert history.best < 0.7 * before
    assert {step for step, _ in history.validation} == {10, 20, 30, 40}


def test_a_note_fills_its_canvas_with_ends_or_is_cut(monkeypatch: pytest.MonkeyPatch):
    training = Training()
    seen: list[Any] = []

    def score(context: Any, notes: Any, *, seed: int) -> Any:
        seen.append((notes, seed))
        return torch.ones(len(notes))

    monkeypatch.setattr(training.model, "score", score)
    loss = training.objective.loss([0, 5], step=1)
    (notes, seed), end = seen[0], training.model.ends[0]
    assert seed == 1
    assert [len(note) for note in notes] == [8, 8]
    assert notes[0] == [*training.model.tokens("a w"), *[end] * 5]
    assert float(loss) == pytest.approx(1 / 8)  # the mean over positions
    training.objective.notes[0] = list(range(10))
    training.objective.loss([0], step=2)
    assert seen[1][0] == [[0, 1, 2, 3]]


def test_validation_takes_canvases_in_turn_and_every_one(monkeypatch: pytest.MonkeyPatch):
    training = Training()
    seen: list[tuple[int, int]] = []

    def score(context: Any, notes: Any, *, seed: int) -> Any:
        seen.append((len(notes[0]), seed))
        return torch.full((len(notes),), float(len(notes[0])))

    monkeypatch.setattr(training.model, "score", score)
    assert training.objective.validate() == 1.0  # nats a position
    assert seen == [(4, 0), (8, 1), (4, 2), (8, 3)]
    training.objective.canvas = (1, 2, 3, 4, 5)
    training.objective.validate()
    assert [size for size, _ in seen[4:]] == [1, 2, 3, 4, 5]


def test_states_of_a_plan_stand_with_its_words(tmp_path: Path, tiny: Callable[..., Backbone]):
    """What a projector is warmed up on: each position's state, and the word that stands there."""
    training, receiver = Training(), tiny("llama")
    training.fit(tmp_path, 60)
    planner = Agent(
        "planner",
        training.model,
        role=note_role("", "private"),
        settings=Denoising(max_tokens=8, steps=4),
    )
    queries = training.objective.queries
    thoughts = StoredThoughts(planner, queries, [-1], tmp_path / "states")
    written = [planner.think(fields_of([asked]), needs=frozenset({TEXT}))[0] for asked in queries]
    words = [thought.text[0] for thought in written if thought.text]
    kept = [n for n, text in enumerate(thoughts.texts) if text]
    assert len(kept) > len(queries) / 2
    assert all(thoughts.texts[n] == words[n] for n in kept)
    projector = EmbeddingProjector(source_width=32, target_width=32, hidden=8)
    warm = Reconstruction(projector, thoughts, training.model, receiver, validation=4)
    for n in kept:
        place, word = warm.pairs[n]
        assert place.tolist() == list(range(len(word)))
        assert word.tolist() == receiver.tokens(words[n])
        assert len(word) <= len(thoughts.states([n]).values[0])
    again = StoredThoughts(planner, queries, [-1], tmp_path / "states")
    assert again.texts == thoughts.texts
    other = Agent("planner", training.model, role=planner.role, settings=Denoising(max_tokens=6))
    assert StoredThoughts(other, queries, [-1], tmp_path / "states").folder != thoughts.folder
    thoughts.texts = [""] * len(queries)
    with pytest.raises(TrainingError, match=r"set warmup.steps=0"):
        Reconstruction(projector, thoughts, training.model, receiver, validation=4)


# The recipes -------------------------------------------------------------------------------------


def test_a_planner_is_trained_once_and_comes_back(settings: list[str], tmp_path: Path):
    recipe = planner_recipe(settings)
    task = load_task(recipe.task)
    planner, home = train_planner(recipe, task, tmp_path / "trained")
    assert isinstance(planner, DiffusionBackbone)
    assert planner.masked == Masked(mask=3, shift=True)
    base = Backbone.from_pretrained(recipe.sender.model)
    assert planner.fingerprint != base.fingerprint
    assert planner.spec.name.endswith("model, diffusion")
    assert not any(p.requires_grad for p in planner.model.parameters())
    card = (home / "README.md").read_text()
    assert "best validation loss" in card
    assert planner.fingerprint in card
    stamp = (home / "model.safetensors").stat().st_mtime_ns
    again, _ = train_planner(recipe, task, tmp_path / "trained")
    assert (home / "model.safetensors").stat().st_mtime_ns == stamp
    assert again.fingerprint == planner.fingerprint
    other = planner_recipe(settings, "seed=1")
    assert train_planner(other, task, tmp_path / "trained")[1] != home


def test_a_killed_training_goes_on(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = planner_recipe(settings)
    task = load_task(recipe.task)
    wanted = train_planner(recipe, task, tmp_path / "one")[0].fingerprint
    loss = Denoised.loss

    def killed(self: Denoised, rows: Sequence[int], step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, rows, step)

    with monkeypatch.context() as patch:
        patch.setattr(Denoised, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train_planner(recipe, task, tmp_path / "two")
    seen: list[int] = []

    def counted(self: Denoised, rows: Sequence[int], step: int) -> Any:
        seen.append(step)
        return loss(self, rows, step)

    monkeypatch.setattr(Denoised, "loss", counted)
    assert train_planner(recipe, task, tmp_path / "two")[0].fingerprint == wanted
    assert seen == [2, 3]
    left = [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]
    assert not any(path.exists() for folder in left for path in folder.iterdir())


def test_a_mask_that_is_no_token_is_refused(settings: list[str], tmp_path: Path):
    recipe = planner_recipe(settings, "planner.mask=MASK")
    with pytest.raises(RecipeError, match=r"planner.mask='MASK' is no token of"):
        train_planner(recipe, load_task(recipe.task), tmp_path)


@pytest.fixture
def finished(settings: list[str], tmp_path: Path) -> Any:
    recipe = whole(settings, tmp_path)
    return recipe, *run_planner_executor(recipe)


def test_planner_and_executor_with_all_controls(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe, report, blames = finished
    beside = ", causal planner"
    assert report.channels == [
        "full-text",
        "full-text, tuned reader",
        "text",
        "text, tuned reader",
        "embedding",
        f"text{beside}",
        f"text{beside}, tuned reader",
        f"embedding{beside}",
    ]
    for name in ("embedding", f"embedding{beside}"):
        conditions = [arm.condition for arm in report.arms if arm.channel == name]
        assert conditions == ["none", "matched", "deranged", "constant"]
        assert report.worth(name).over_constant is not None
    text, latent = (report.arm(name, "matched") for name in ("text", "embedding"))
    assert text.passes > 4  # four steps of the planner, and the executor's
    assert text.tokens_written > report.arm("text", "none").tokens_written
    assert latent.wire_bytes > text.wire_bytes
    rows = (recipe.out / "predictions" / "embedding-matched.jsonl").read_text().splitlines()
    told = (recipe.out / "predictions" / "text-matched.jsonl").read_text().splitlines()
    plans = [[json.loads(row)["messages"]["sender"] for row in arm] for arm in (rows, told)]
    assert plans[0] == plans[1]  # the same canvas, in states and in words
    assert [one.channel for one in blames] == [
        "text",
        "text, tuned reader",
        "embedding",
        f"text{beside}",
        f"text{beside}, tuned reader",
    ]
    assert all(one.plan + one.execution == one.wrong for one in blames)
    saved = json.loads((recipe.out / "attribution.json").read_text())
    assert [row["channel"] for row in saved] == [one.channel for one in blames]
    trained = sorted(path.name.split("-")[0] for path in (recipe.out / "trained").glob("[!.]*"))
    assert trained == ["constant", "planner", "projector", "projector", "reader"]
    assert report.notes["planning"]["tokens"] == 12


def test_a_second_run_reuses_everything(
    finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    recipe, report, blames = finished
    for place in (planning, __import__("unspoken.relay.train", fromlist=["fit"])):
        monkeypatch.setattr(place, "fit", None)
    monkeypatch.setattr(Pipeline, "run_many", None)
    again, same = run_planner_executor(recipe)
    assert [arm.correct for arm in again.arms] == [arm.correct for arm in report.arms]
    assert same == blames
    told = " ".join(capsys.readouterr().err.split())
    assert "20 items to train on, 4 to validate, 6 to test; shared facts" in told


def test_each_plan_length_has_a_projector_of_its_own_and_shares_the_rest(
    settings: list[str], tmp_path: Path
):
    recipe = whole(settings, tmp_path)
    task = load_task(recipe.task)
    planner, _ = train_planner(recipe, task, recipe.out / "trained")
    executor = Backbone.from_pretrained(recipe.receiver.model)
    homes: list[Path] = []
    for tokens in (12, 6):
        swept = recipe.planning.model_copy(update={"tokens": tokens})
        changed = recipe.model_copy(update={"planning": swept})
        relay = Relay(changed, planner, executor, task)
        projector, home = train_projector(relay, tmp_path / "trained")
        homes.append(home)
        train_vectors(relay, recipe.reader, tmp_path / "trained", what="reader")
        message = _sent(relay.speaking(projector), [query(item) for item in task.test[:3]])
        assert message.payload.mask.sum(1).max() <= tokens
    assert homes[0] != homes[1]
    assert len(list((tmp_path / "trained").glob("reader-*"))) == 1  # it reads no plan


def _sent(line: Pipeline, queries: list[dict[str, str]]) -> Any:
    (heard,) = line.mail(queries)
    return heard.message


def test_a_sweep_plans_in_other_ways_beside(settings: list[str], tmp_path: Path):
    sweep = "sweep={tokens: [6, 24], steps: [2, 4]}"
    recipe = whole(settings, tmp_path, "channels=[full-text,text,embedding]", sweep)
    report, blames = run_planner_executor(recipe)
    ways = [f"tokens={tokens}, steps={steps}" for tokens in (6, 24) for steps in (2, 4)]
    for way in ways:
        assert f"text, {way}" in [one.channel for one in blames]
        assert report.worth(f"embedding, {way}").over_constant is not None
        assert {arm.condition for arm in report.arms if arm.channel.endswith(way)} == {
            "none",
            "matched",
            "deranged",
            "constant",
        }
    few, more = (report.arm(f"text, {way}", "matched").passes for way in (ways[0], ways[1]))
    assert more > few
    assert len(list((recipe.out / "trained").glob("projector-*"))) == 1 + 4 + 1
    assert len(list((recipe.out / "trained").glob("reader-*"))) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("sweep={tokens: [0]}", "sweep.tokens: Input should be greater than or equal to 1"),
        ("sweep={tokens: []}", "sweep.tokens: .*at least 1 item"),
        ("planner.canvas=[]", "planner.canvas: .*at least 1 item"),
        ("sweep={length: [4]}", "sweep.length: Extra inputs are not permitted"),
        ("sweep={tokens: [40]}", "plans of 40 tokens are asked for.*add 40 to planner.canvas"),
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
    planner, _ = train_planner(recipe, task, recipe.out / "trained")
    executor = Backbone.from_pretrained(recipe.receiver.model)
    relay = Relay(recipe, planner, executor, task)
    real = planner.digest
    digests = iter([real(), "moved"])
    monkeypatch.setattr(planner, "digest", lambda: next(digests))
    with pytest.raises(TrainingError, match="changed the frozen weights of sender"):
        train_projector(relay, tmp_path / "trained")


def test_a_causal_model_without_training_is_no_planner(settings: list[str], tmp_path: Path):
    with pytest.raises(IncompatibleModels, match=r"is a causal model; give planner.training.steps"):
        run_planner_executor(whole(settings, tmp_path, "planner.training.steps=0"))


def test_a_comparison_needs_its_oracle_plan(settings: list[str], tmp_path: Path):
    with pytest.raises(RecipeError, match="channels must name full-text"):
        whole(settings, tmp_path, "channels=[text]")


def test_a_pipeline_by_recipe_plans_by_diffusion(tmp_path: Path, settings: list[str]):
    planner = tiny_diffusion("dream")
    planner.save_pretrained(tmp_path / "planner")
    (tmp_path / "pair.yaml").write_text(
        f"""# A pair.
kind: pipeline
agents:
  - name: planner
    model: {tmp_path / "planner"}
    stop: ["!"]
    canvas: {{tokens: 10, steps: 5, remask: margin}}
  - {{name: solver, model: {tmp_path / "model"}, max_tokens: 4}}
edges:
  - {{from: planner, to: solver, channel: {{kind: text}}}}
"""
    )
    recipe = load_recipe(str(tmp_path / "pair.yaml"))
    assert isinstance(recipe, PipelineRecipe)
    line = build(recipe)
    planned = line.agents["planner"].settings
    assert planned == Denoising(max_tokens=10, steps=5, remask="margin", stop=("!",))
    assert line.run("why?").turns[0].usage.passes == 5
    assert line.edges[0] == Edge("planner", "solver", line.edges[0].channel)


# Whose fault -------------------------------------------------------------------------------------


def arm(out: Path, channel: str, rows: Sequence[tuple[str, bool, str | None]]) -> None:
    lines = (
        json.dumps(
            {
                "id": str(n),
                "answers": [answer],
                "correct": right,
                "messages": {} if plan is None else {"sender": plan},
            }
        )
        for n, (answer, right, plan) in enumerate(rows)
    )
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    (out / "predictions" / f"{channel}-matched.jsonl").write_text("\n".join(lines) + "\n")


def test_a_wrong_answer_is_the_planners_or_the_executors_fault(tmp_path: Path):
    arm(tmp_path, "full-text", [("tea", n < 3, None) for n in range(5)])
    plans = ["some tea here", "milk", "the tea", "teas", "tea"]
    arm(tmp_path, "text", [("tea", n == 0, plan) for n, plan in enumerate(plans)])
    arm(tmp_path, "states", [("tea", False, None)] * 5)
    found = attribute(tmp_path, ["text", "states"], "sender", "full-text")
    assert found == [Blame("text", n=5, right=1, plan=2, execution=2, oracle_plan=2)]
    assert found[0].wrong == 4
    with pytest.raises(DataError, match="compare the channel 'words' first"):
        attribute(tmp_path, ["words"], "sender", "full-text")
    assert holds("It is TEA!", ["a tea"])
