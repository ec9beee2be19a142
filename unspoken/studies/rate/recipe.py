"""Rate and distortion by recipe: train what is missing, then sweep each channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unspoken.channels import Channel, TextChannel
from unspoken.evaluation.altered import Prefix
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RateRecipe, RelayRecipe
from unspoken.recipe.parts import ChannelSource
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, train_vectors
from unspoken.studies.comparison.recipe import asked, fitted, made, noted
from unspoken.studies.rate.report import RateReport, rates
from unspoken.wire import Packing

__all__ = ["curves", "run_rate"]

_WHOLE = "whole"


def run_rate(recipe: RateRecipe) -> RateReport:
    """Sweep every channel of the recipe; the report and its picture go to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    folder = recipe.trained or recipe.out / "trained"
    by_length = dict(curves(relay, recipe, folder, recipe.lengths))
    return rates(
        {
            **by_length,
            **dict(_packed(by_length, recipe.packs)),
            **dict(_swept(relay, recipe, folder)),
        },
        task,
        items=recipe.worth.items,
        expected=relay.answer,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )


def curves(
    relay: Relay, recipe: RelayRecipe, folder: Path, lengths: Sequence[int] = ()
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """Each channel and its pipelines by length; words are read by the tuned reader."""
    words = {"full-text": relay.full_text, "text": relay.text}
    ready = made(relay, recipe)  # refused at once
    for source in recipe.channels:
        name = source if isinstance(source, str) else source.name
        if name in words:
            soft = train_vectors(relay, recipe.reader, folder, what="reader")
            cut = {f"{n} tokens": words[name](soft, n) for n in lengths}
            yield f"{name}, tuned reader", {**cut, _WHOLE: words[name](soft)}
        elif name in ready:
            yield name, _by_length(ready[name], lengths)
        elif isinstance(source, ChannelSource):
            yield name, _by_length(fitted(relay, source, folder), lengths)
        else:
            projector, _ = train_projector(relay, folder)
            yield name, _by_length(relay.speaking(projector), lengths)


def _packed(
    curves: Mapping[str, Mapping[str, Pipeline]], packs: Sequence[Packing]
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """A curve for each channel but words: its whole messages, packed in each of the ways."""
    for name, settings in curves.items():
        whole = settings[_WHOLE]
        if packs and not any(isinstance(edge.channel, TextChannel) for edge in whole.edges):
            yield f"{name}, packed", {_label(pack): _through(whole, pack) for pack in packs}


def _label(pack: Packing) -> str:
    kind, *options = pack.model_dump(exclude_defaults=True).items()
    return ", ".join([str(kind[1]), *(f"{name}={value}" for name, value in options)])


def _through(pipeline: Pipeline, pack: Packing) -> Pipeline:
    edges = [replace(edge, pack=pack) for edge in pipeline.edges]
    return Pipeline(list(pipeline.agents.values()), edges, rounds=pipeline.rounds)


def _swept(
    relay: Relay, recipe: RateRecipe, folder: Path
) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """A curve for each setting of the projector, which is trained at each of its values."""
    for key, values in recipe.sweep.items():
        swept: dict[str, Pipeline] = {}
        for value in values:
            changed = recipe.model_copy(update={"projector": recipe.swept(key, value)})
            other = replace(relay, recipe=changed)
            swept[f"{key}={value}"] = other.speaking(train_projector(other, folder)[0])
        yield f"{recipe.projector.kind}, by {key}", swept


def _by_length(pipeline: Pipeline, lengths: Sequence[int]) -> dict[str, Pipeline]:
    """The pipeline with its messages cut to their first positions, and whole at the end.

    Only whole if the message begins with the lead, or is words.
    """
    found: dict[str, Pipeline] = {}
    for n in () if any(_uncut(edge.channel) for edge in pipeline.edges) else lengths:
        edges = [replace(edge, channel=Prefix(edge.channel, n)) for edge in pipeline.edges]
        agents = list(pipeline.agents.values())
        found[f"{n} positions"] = Pipeline(agents, edges, rounds=pipeline.rounds)
    return {**found, _WHOLE: pipeline}


def _uncut(channel: Channel) -> bool:
    return channel.in_front or isinstance(channel, TextChannel)
