"""Rate and distortion by recipe: train what is missing, then sweep each channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unspoken.evaluation.altered import Prefix
from unspoken.evaluation.rate import RateReport, rates
from unspoken.pipeline import Pipeline
from unspoken.recipe.compare import asked
from unspoken.recipe.config import RateRecipe
from unspoken.recipe.relay import Relay
from unspoken.recipe.train import train_projector, train_vectors

__all__ = ["run_rate"]

_WHOLE = "whole"


def run_rate(recipe: RateRecipe) -> RateReport:
    """Sweep every channel of the recipe; the report and its picture go to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    folder = recipe.trained or recipe.out / "trained"
    return rates(
        dict(_curves(relay, recipe, folder)),
        task,
        items=recipe.worth.items,
        say=relay.answer,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={} if recipe.transfer is None else {"trained_on": relay.task.name},
    )


def _curves(
    relay: Relay, recipe: RateRecipe, folder: Path
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """Each curve and its pipelines by setting; words are read by the tuned reader."""
    words = {"full-text": relay.full_text, "text": relay.text}
    exact = {"handoff": relay.handoff, "oracle": relay.oracle}
    for name in recipe.channels:
        if name in words:
            soft = train_vectors(relay, recipe.reader, folder, what="reader")
            cut = {f"{n} tokens": words[name](soft, n) for n in recipe.lengths}
            yield f"{name}, tuned reader", {**cut, _WHOLE: words[name](soft)}
        elif name in exact:
            yield name, {_WHOLE: exact[name]()}
        else:
            projector, _ = train_projector(relay, folder)
            whole = relay.speaking(projector)
            cut = {f"{n} positions": _first(whole, n) for n in recipe.lengths}
            yield name, {**cut, _WHOLE: whole}
    for key, values in recipe.sweep.items():
        swept: dict[str, Pipeline] = {}
        for value in values:
            changed = recipe.model_copy(update={"projector": recipe.swept(key, value)})
            other = replace(relay, recipe=changed)
            swept[f"{key}={value}"] = other.speaking(train_projector(other, folder)[0])
        yield f"{recipe.projector.kind}, by {key}", swept


def _first(pipeline: Pipeline, limit: int) -> Pipeline:
    """The same pipeline, its messages cut to their first positions."""
    edges = [replace(edge, channel=Prefix(edge.channel, limit)) for edge in pipeline.edges]
    return Pipeline(list(pipeline.agents.values()), edges, rounds=pipeline.rounds)
