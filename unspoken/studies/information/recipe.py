"""Usable bits by recipe: train what is missing, then measure every channel and its controls."""

from __future__ import annotations

from dataclasses import replace

from unspoken.evaluation.altered import Noise
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import noted, prepared
from unspoken.studies.information.measure import measure_information
from unspoken.studies.information.report import InformationReport
from unspoken.studies.information.settings import InformationSettings

__all__ = ["run_information"]


def run_information(recipe: RelayRecipe, settings: InformationSettings) -> InformationReport:
    """Measure each channel of the recipe; the report goes to `out`.

    A trained channel comes with its controls: free vectors without a sender, and noise with the
    moments of its messages.
    """
    ready = prepared(recipe, lora=False)
    relay, found = ready.relay, ready.found
    pipelines: dict[str, Pipeline] = {}
    for name, pipeline in found.pipelines.items():
        pipelines[name] = pipeline
        if name in found.constants:
            pipelines[f"{name}, constant"] = found.constants[name]
            pipelines[f"{name}, noise"] = noisy(pipeline, recipe.seed)
    return measure_information(
        pipelines,
        ready.task,
        items=settings.items,
        writer=relay.writer if "text" in recipe.compared.channels else None,
        samples=settings.samples,
        expected=relay.answer,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes={**found.notes, **noted(relay, recipe)},
    )


def noisy(pipeline: Pipeline, seed: int) -> Pipeline:
    """The same pipeline with moment-matched noise on every edge."""
    edges = [replace(edge, channel=Noise(edge.channel, seed)) for edge in pipeline.edges]
    return Pipeline(list(pipeline.agents.values()), edges, rounds=pipeline.rounds)
