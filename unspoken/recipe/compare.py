"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from unspoken.anchors import AnchorPool
from unspoken.channels import Handoff
from unspoken.evaluation import Report, ReuseReport, compare, compare_reuse, load_task
from unspoken.evaluation.tasks import transferred
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import ChannelSource, RelayRecipe, ReuseRecipe, Stage
from unspoken.recipe.pipeline import build, channel_of
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
    made = _made(relay, recipe)  # refused at once
    tuned = any(isinstance(source, str) and source in read for source in recipe.channels)
    soft = train_vectors(relay, recipe.reader, folder, what="reader") if tuned else None
    for source in recipe.channels:
        name = source if isinstance(source, str) else source.name
        if name in made:
            lines.pipelines[name] = made[name]
        elif isinstance(source, ChannelSource):
            lines.pipelines[name] = _fitted(relay, source, folder)
        elif name in read:
            lines.pipelines[name] = read[name]()
            lines.pipelines[f"{name}, tuned reader"] = read[name](soft)
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


def _made(relay: Relay, recipe: RelayRecipe) -> dict[str, Pipeline]:
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


def _fitted(relay: Relay, source: ChannelSource, folder: Path) -> Pipeline:
    """The pipeline over a channel whose map is fitted now, or stands in `folder`."""
    side = relay.own if source.sender == "receiver" else relay
    still = Stage(steps=0, lr=1.0)
    changed = {"projector": source.projector, "warmup": still, "training": still}
    side = replace(side, recipe=relay.recipe.model_copy(update=changed))
    return side.speaking(train_projector(side, folder)[0])
