"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

from time import perf_counter

from unspoken.evaluation import Report, compare
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.relay import Relay
from unspoken.recipe.train import train_projector, train_vectors

__all__ = ["run_relay"]


def run_relay(recipe: RelayRecipe) -> Report:
    """Train the projector and its controls if need be, compare, and write the report to `out`."""
    relay = Relay.of(recipe)
    start = perf_counter()
    pipelines, constants = _pipelines(relay, recipe)
    return compare(
        pipelines,
        relay.task,
        constants=constants,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={"training_seconds": round(perf_counter() - start, 1)},
    )


def _pipelines(
    relay: Relay, recipe: RelayRecipe
) -> tuple[dict[str, Pipeline], dict[str, Pipeline]]:
    folder = recipe.trained or recipe.out / "trained"
    pipelines: dict[str, Pipeline] = {}
    constants: dict[str, Pipeline] = {}
    makers = {"full-text": relay.full_text, "text": relay.text}
    tuned = [name for name in recipe.channels if name in makers]
    handed = relay.handoff() if "handoff" in recipe.channels else None  # refused before training
    soft = train_vectors(relay, recipe.reader, folder, what="reader") if tuned else None
    for name in recipe.channels:
        if name in makers:
            pipelines[name] = makers[name]()
            pipelines[f"{name}, tuned reader"] = makers[name](soft)
        elif name == "embedding":
            pipelines[name] = relay.embedding(train_projector(relay, folder)[0])
            free = train_vectors(relay, recipe.constant, folder, what="constant")
            constants[name] = relay.constant(free)
        elif handed is not None:
            pipelines[name] = handed
    return pipelines, constants
