"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from unspoken.anchors import AnchorPool
from unspoken.evaluation import Report, ReuseReport, compare, compare_reuse, load_task
from unspoken.evaluation.tasks import transferred
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe, ReuseRecipe
from unspoken.recipe.pipeline import build
from unspoken.recipe.relay import Relay
from unspoken.recipe.train import train_lora, train_projector, train_vectors

__all__ = ["run_relay", "run_reuse"]


def run_relay(recipe: RelayRecipe) -> Report:
    """Train the projector and its controls if need be, compare, and write the report to `out`."""
    relay = Relay.of(recipe)
    task = relay.task
    if recipe.transfer is not None:
        task = transferred(task, recipe.transfer)
    start = perf_counter()
    lines = _lines(relay, recipe)
    if task is not relay.task:
        lines.notes["trained_on"] = relay.task.name
    return compare(
        lines.pipelines,
        task,
        constants=lines.constants,
        adapted=lines.adapted,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={"training_seconds": round(perf_counter() - start, 1), **lines.notes},
    )


def run_reuse(recipe: ReuseRecipe) -> ReuseReport:
    """Run a pipeline densely and from pools of caches; write the report to `out`."""
    task = load_task(recipe.task)
    pools = {
        name: AnchorPool(name, **recipe.pool.model_dump(), seed=recipe.seed)
        for name in recipe.ladders
    }
    return compare_reuse(
        build(recipe),
        task,
        pools,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
    )


@dataclass
class _Lines:
    """What is compared, by channel: pipelines, and the controls of those that are trained."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    constants: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    adapted: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


def _lines(relay: Relay, recipe: RelayRecipe) -> _Lines:
    folder = recipe.trained or recipe.out / "trained"
    lines = _Lines()
    read = {"full-text": relay.full_text, "text": relay.text}
    exact = {"handoff": relay.handoff, "oracle": relay.oracle}
    made = {name: exact[name]() for name in recipe.channels if name in exact}  # refused at once
    tuned = any(name in read for name in recipe.channels)
    soft = train_vectors(relay, recipe.reader, folder, what="reader") if tuned else None
    for name in recipe.channels:
        if name in read:
            lines.pipelines[name] = read[name]()
            lines.pipelines[f"{name}, tuned reader"] = read[name](soft)
        elif name in made:
            lines.pipelines[name] = made[name]
        else:
            projector, _ = train_projector(relay, folder)
            size = sum(parameter.numel() for parameter in projector.parameters())
            lines.notes["projector_parameters"] = size
            lines.pipelines[name] = relay.speaking(projector)
            free = train_vectors(relay, recipe.constant, folder, what="constant")
            lines.constants[name] = relay.constant(free)
            if recipe.lora is not None:
                receiver = train_lora(relay, recipe.lora, size, folder)
                lines.adapted[name] = replace(relay, receiver=receiver).alone()
    return lines
