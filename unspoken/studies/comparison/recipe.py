"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from unspoken.anchors import AnchorPool
from unspoken.channels import Handoff
from unspoken.evaluation.bits import Information, informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.items import chosen
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe, ReuseRecipe
from unspoken.recipe.loading import kept
from unspoken.recipe.parts import ChannelSource, Stage
from unspoken.recipe.pipeline import build, channel_of
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_lora, train_projector, train_vectors
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.report import Report
from unspoken.studies.reuse.report import ReuseReport, compare_reuse
from unspoken.tasks import Task, load_task, transferred

__all__ = ["Lines", "asked", "fitted", "made", "noted", "run_relay", "run_reuse"]


def run_relay(recipe: RelayRecipe) -> Report:
    """Train the projector and its controls if need be, compare, and write the report to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    start = perf_counter()
    lines = Lines.of(relay, recipe)
    seconds = perf_counter() - start
    return compare(
        lines.pipelines,
        task,
        constants=lines.constants,
        adapted=lines.adapted,
        information=_information(relay, recipe, lines, task) if recipe.worth.column else None,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={"training_seconds": round(seconds, 1), **lines.notes, **noted(relay, recipe)},
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
        notes=kept(recipe),
    )


def asked(relay: Relay, recipe: RelayRecipe) -> Task:
    """The task whose test items are asked."""
    return relay.task if recipe.transfer is None else transferred(relay.task, recipe.transfer)


def noted(relay: Relay, recipe: RelayRecipe) -> dict[str, Any]:
    """The recipe, and what was trained on where another task is asked, as notes of a result."""
    trained_on = {} if recipe.transfer is None else {"trained_on": relay.task.name}
    return {**trained_on, **kept(recipe)}


def _information(
    relay: Relay, recipe: RelayRecipe, lines: Lines, task: Task
) -> dict[str, Information]:
    items = chosen(task, recipe.worth.items, recipe.limit, recipe.seed)
    evaluator = Evaluator(items, recipe.batch_size, Store(recipe.out))
    return informed(lines.pipelines, evaluator, expected=relay.answer, seed=recipe.seed)


@dataclass
class Lines:
    """What is compared, by channel: pipelines, and the controls of those that are trained."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    constants: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    adapted: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    notes: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, relay: Relay, recipe: RelayRecipe, *, lora: bool = True) -> Lines:
        """Make the pipelines; what is trained for them and not there yet is trained.

        lora: whether the receiver itself is trained too, where the recipe asks for it.
        """
        folder = recipe.trained or recipe.out / "trained"
        lines = cls()
        read = {"full-text": relay.full_text, "text": relay.text}
        ready = made(relay, recipe)  # refused at once
        tuned = any(isinstance(source, str) and source in read for source in recipe.channels)
        soft = train_vectors(relay, recipe.reader, folder, what="reader") if tuned else None
        for source in recipe.channels:
            name = source if isinstance(source, str) else source.name
            if name in ready:
                lines.pipelines[name] = ready[name]
            elif isinstance(source, ChannelSource):
                lines.pipelines[name] = fitted(relay, source, folder)
            elif name in read:
                lines.pipelines[name] = read[name]()
                lines.pipelines[f"{name}, tuned reader"] = read[name](soft)
            else:
                projector, home = train_projector(relay, folder)
                lines.notes["projector_folder"] = os.path.relpath(home, recipe.out)
                size = sum(parameter.numel() for parameter in projector.parameters())
                lines.notes["projector_parameters"] = size
                lines.pipelines[name] = relay.speaking(projector)
                free = train_vectors(relay, recipe.constant, folder, what="constant")
                lines.constants[name] = relay.constant(free)
                if lora and recipe.lora is not None:
                    receiver = train_lora(relay, recipe.lora, size, folder)
                    lines.adapted[name] = replace(relay, receiver=receiver).alone()
        return lines


def made(relay: Relay, recipe: RelayRecipe) -> dict[str, Pipeline]:
    """Pipelines over channels that need nothing but their settings, by name."""
    found: dict[str, Pipeline] = {}
    for source in recipe.channels:
        match source:
            case "handoff":
                found["handoff"] = relay.over(Handoff())
            case "oracle":
                found["oracle"] = relay.oracle()
            case ChannelSource(channel=dict(options)):
                side = relay.own if source.sender == "receiver" else relay
                channel = channel_of(options).calibrated(relay.receiver, relay.samples())
                found[source.name] = side.over(channel)
            case _:
                pass
    return found


def fitted(relay: Relay, source: ChannelSource, folder: Path) -> Pipeline:
    """The pipeline over a channel whose map is fitted now, or stands in `folder`."""
    side = relay.own if source.sender == "receiver" else relay
    still = Stage(steps=0, lr=1.0)
    changed = {"projector": source.projector, "warmup": still, "training": still}
    side = replace(side, recipe=relay.recipe.model_copy(update=changed))
    return side.speaking(train_projector(side, folder)[0])
