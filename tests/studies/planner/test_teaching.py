"""How a diffusion planner is taught, and that it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.randomness import untouched
from tests.studies.planner.recipes import planner_recipe
from unspoken.agents import Agent
from unspoken.backbone import Backbone, DiffusionBackbone, Masked
from unspoken.errors import RecipeError, TrainingError
from unspoken.pipeline import Edge, fields_of
from unspoken.projectors import EmbeddingProjector
from unspoken.recipe import PipelineRecipe, load_recipe
from unspoken.recipe.pipeline import build
from unspoken.relay.relay import note_role
from unspoken.studies.planner import (
    train_planner,
)
from unspoken.tasks import load_task
from unspoken.testing import tiny_diffusion
from unspoken.training import History, Reconstruction, StoredStates, TrainingPlan, fit
from unspoken.training.denoised import Denoised
from unspoken.types import TEXT, Denoising


class Training:
    """A tiny diffusion model that learns to copy short facts."""

    def __init__(self) -> None:
        self.model = tiny_diffusion("dream", seed=3)
        facts = [f"{a} {b}" for a in "abcd" for b in "wxyz"]
        planner = Agent("planner", self.model, role=note_role("", "private"))
        queries = [{"question": "?", "context": fact} for fact in facts]
        self.objective = Denoised(planner, queries, facts, canvas=(4, 8), validation=4)

    def fit(self, folder: Path, steps: int) -> History:
        plan = TrainingPlan(steps=steps, batch_size=6, lr=3e-3, warmup=2, every=10, bf16=False)
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
    sender_states = StoredStates(planner, queries, [-1], tmp_path / "states")
    written = [planner.compute(fields_of([asked]), needs=frozenset({TEXT}))[0] for asked in queries]
    words = [state.text[0] for state in written if state.text]
    kept = [n for n, text in enumerate(sender_states.texts) if text]
    assert len(kept) > len(queries) / 2
    assert all(sender_states.texts[n] == words[n] for n in kept)
    projector = EmbeddingProjector(source_width=32, target_width=32, hidden=8)
    warm = Reconstruction(projector, sender_states, training.model, receiver, validation=4)
    for n in kept:
        place, word = warm.pairs[n]
        assert place.tolist() == list(range(len(word)))
        assert word.tolist() == receiver.tokens(words[n])
        assert len(word) <= len(sender_states.states([n]).values[0])
    again = StoredStates(planner, queries, [-1], tmp_path / "states")
    assert again.texts == sender_states.texts
    other = Agent("planner", training.model, role=planner.role, settings=Denoising(max_tokens=6))
    assert StoredStates(other, queries, [-1], tmp_path / "states").folder != sender_states.folder
    sender_states.texts = [""] * len(queries)
    with pytest.raises(TrainingError, match=r"Set warmup.steps=0"):
        Reconstruction(projector, sender_states, training.model, receiver, validation=4)


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


def test_a_training_that_was_killed_five_times_goes_on(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = planner_recipe(settings)
    task = load_task(recipe.task)
    wanted = train_planner(recipe, task, tmp_path / "one")[0].fingerprint
    loss = Denoised.loss

    def killed(self: Denoised, rows: Sequence[int], step: int) -> Any:
        if step == stops[0]:
            raise KeyboardInterrupt
        return loss(self, rows, step)

    stops = [0, 1, 2, 2, 3]
    with monkeypatch.context() as patch:
        patch.setattr(Denoised, "loss", killed)
        while stops:
            with untouched(), pytest.raises(KeyboardInterrupt):
                train_planner(recipe, task, tmp_path / "two")
            del stops[0]
            torch.rand(3)
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
    recipe = planner_recipe(settings, "teaching.mask=MASK")
    with pytest.raises(RecipeError, match=r"teaching.mask='MASK' is no token of"):
        train_planner(recipe, load_task(recipe.task), tmp_path)


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
