"""Rate and distortion by recipe: train what is missing, then sweep each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unspoken.channels import TextChannel
from unspoken.page import write_picture
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import WHOLE, curves, made, noted
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, trained_folder
from unspoken.relay.trained import trained_pipeline
from unspoken.studies.rate.measure import rates
from unspoken.studies.rate.report import RateReport
from unspoken.studies.rate.section import chart
from unspoken.studies.rate.settings import RateSettings, swept
from unspoken.wire import Packing

__all__ = ["run_rate"]


def run_rate(recipe: RelayRecipe, settings: RateSettings) -> RateReport:
    """Sweep every channel of the recipe; the report and its picture go to `out`."""
    ready = made(recipe, lambda relay: _curves(relay, settings))
    relay = ready.relay
    report = rates(
        ready.found,
        ready.task,
        items=settings.items,
        expected=relay.answer,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
    models = " and ".join(model["name"] for model in report.models)
    write_picture(chart(report), recipe.out / "rate.svg", f"{models}: {report.title}")
    return report


def _curves(relay: Relay, settings: RateSettings) -> dict[str, dict[str, Pipeline]]:
    """The pipelines of all curves, by curve and setting."""
    by_length = dict(curves(relay, settings.lengths))
    packed, more = _packed(by_length, settings.packs), _swept(relay, settings.sweep)
    return {**by_length, **dict(packed), **dict(more)}


def _packed(
    curves: Mapping[str, Mapping[str, Pipeline]], packs: Sequence[Packing]
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """A curve for each channel except text: its whole messages, packed in each of the ways."""
    for name, settings in curves.items():
        whole = settings[WHOLE]
        if packs and not any(isinstance(edge.channel, TextChannel) for edge in whole.edges):
            yield f"{name}, packed", {_label(pack): _through(whole, pack) for pack in packs}


def _label(pack: Packing) -> str:
    kind, *options = pack.model_dump(exclude_defaults=True).items()
    return ", ".join([str(kind[1]), *(f"{name}={value}" for name, value in options)])


def _through(pipeline: Pipeline, pack: Packing) -> Pipeline:
    edges = [replace(edge, pack=pack) for edge in pipeline.edges]
    return Pipeline(list(pipeline.agents.values()), edges, rounds=pipeline.rounds)


def _swept(
    relay: Relay, sweep: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """A curve for each setting of the projector, which is trained at each of its values."""
    recipe = relay.recipe
    for key, values in sweep.items():
        found: dict[str, Pipeline] = {}
        for value in values:
            changed = recipe.model_copy(update={"projector": swept(recipe.projector, key, value)})
            other = replace(relay, recipe=changed)
            projector, _ = train_projector(other, trained_folder(recipe))
            found[f"{key}={value}"] = trained_pipeline(other, projector)
        yield f"{recipe.projector.kind}, by {key}", found
