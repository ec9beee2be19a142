"""Planner and executor by recipe: a diffusion planner in words and states, a causal one beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter

from rich.console import Console

from unspoken.backbone import LanguageModel, causal, load_model
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import PlannerExecutorRecipe
from unspoken.recipe.parts import CanvasSettings, ModelSource
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, train_vectors
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.recipe import Lines, asked, noted
from unspoken.studies.comparison.report import Report
from unspoken.studies.planner.blame import Blame, attribute, save
from unspoken.studies.planner.teaching import planner_of
from unspoken.tasks import Task, load_task

__all__ = ["run_planner_executor"]

_ORACLE, _BESIDE = "full-text", ", causal planner"


def run_planner_executor(recipe: PlannerExecutorRecipe) -> tuple[Report, list[Blame]]:
    """Train the planner, the projectors and the controls if need be, compare, and say whose fault.

    The executor is one and the same; the causal planner's arms carry its name. What the splits
    share is printed first.
    """
    task = load_task(recipe.task)
    _told(task)
    folder = recipe.trained or recipe.out / "trained"
    start = perf_counter()
    planner = planner_of(recipe, task, folder)
    executor = causal(_load(recipe.receiver), "the executor answers from")
    silent = recipe.prompts.model_copy(update={"note_lead": ""})  # the planner was trained without
    trained = recipe.planner.training.steps > 0
    ours = recipe.model_copy(update={"prompts": silent} if trained else {})
    relay = Relay(ours, planner, executor, task)
    lines = Lines.of(relay, ours)
    beside = _beside(replace(relay, recipe=recipe, sender=_load(recipe.causal)), relay, folder)
    still = {f"{name}{_BESIDE}": line for name, line in lines.constants.items()}
    for label, planning in recipe.swept().items():
        _join(lines, _planned(relay, ours, planning), label)
    report = compare(
        {**lines.pipelines, **beside},
        asked(relay, recipe),
        constants={**lines.constants, **still},
        adapted=lines.adapted,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={
            "training_seconds": round(perf_counter() - start, 1),
            "planning": recipe.planning.model_dump(),
            **lines.notes,
            **noted(relay, recipe),
        },
    )
    names = [name for name in report.channels if not name.startswith(_ORACLE)]
    blames = attribute(recipe.out, names, "sender", _ORACLE)
    save(blames, recipe.out)
    return report, blames


def _planned(relay: Relay, recipe: PlannerExecutorRecipe, planning: CanvasSettings) -> Lines:
    """The channels through which a plan goes, planned in another way."""
    names = tuple(name for name in recipe.channels if name in ("text", recipe.projector.kind))
    changed = recipe.model_copy(update={"planning": planning, "channels": names, "lora": None})
    return Lines.of(replace(relay, recipe=changed), changed)


def _join(lines: Lines, more: Lines, label: str) -> None:
    """Add lines by names that say how they differ."""
    lines.pipelines |= {f"{name}, {label}": line for name, line in more.pipelines.items()}
    lines.constants |= {f"{name}, {label}": line for name, line in more.constants.items()}


def _beside(other: Relay, relay: Relay, folder: Path) -> dict[str, Pipeline]:
    """The same channels with the causal planner; the executor's tuned reader is the same too.

    Free vectors have no sender, so one constant stands beside both planners.
    """
    recipe = relay.recipe
    assert isinstance(recipe, PlannerExecutorRecipe)
    found: dict[str, Pipeline] = {}
    for name in recipe.channels:
        if name == "text":
            soft = train_vectors(relay, recipe.reader, folder, what="reader")
            found[f"text{_BESIDE}"] = other.text()
            found[f"text{_BESIDE}, tuned reader"] = other.text(soft)
        elif name == recipe.projector.kind:
            projector, _ = train_projector(other, folder)
            found[f"{name}{_BESIDE}"] = other.speaking(projector)
    return found


def _load(source: ModelSource) -> LanguageModel:
    return load_model(source.model, dtype=source.dtype, device=source.device)


def _told(task: Task) -> None:
    shared = task.overlap
    Console(stderr=True).print(
        f"{task.name}: {len(task.train)} items to train on, {len(task.validation)} to validate, "
        f"{len(task.test)} to test; shared facts {dict(shared.facts)}, shared questions "
        f"{dict(shared.questions)}; {shared.dropped} items left out for that"
    )
