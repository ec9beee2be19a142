"""The pipelines of one pair on one task, by channel and by length of its messages.

What they need and is not trained yet is trained first.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch

from unspoken.backbone import LanguageModel
from unspoken.channels import Channel, Handoff, TextChannel
from unspoken.engines import VllmModel, check_engine, load_in
from unspoken.evaluation.altered import Prefix
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.loading import kept
from unspoken.recipe.parts import ChannelSource, Stage
from unspoken.recipe.pipeline import channel_of
from unspoken.recipe.registry import study
from unspoken.relay.relay import Relay
from unspoken.relay.train import (
    train_lora,
    train_projector,
    train_reader,
    train_vectors,
    trained_folder,
)
from unspoken.relay.trained import trained_pipeline
from unspoken.tasks import Task, transferred
from unspoken.terminal import PlainConsole

__all__ = [
    "WHOLE",
    "Prepared",
    "RelayPipelines",
    "asked",
    "curves",
    "made",
    "noted",
    "prepared",
]

T = TypeVar("T")

WHOLE = "whole"
"""The setting of a pipeline whose messages are not cut."""


@dataclass
class RelayPipelines:
    """What is compared, by channel: pipelines, and the controls of those that are trained."""

    pipelines: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    constants: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    adapted: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    notes: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, relay: Relay, *, lora: bool = True) -> RelayPipelines:
        """Make the pipelines. What they need and is not trained yet is trained.

        lora: whether the receiver itself is trained too, if the recipe asks for it.
        """
        compared, folder = relay.recipe.compared, trained_folder(relay.recipe)
        found = cls()
        read = {"full-text": relay.full_text, "text": relay.text}
        ready = _made(relay)  # refused at once
        tuned = any(isinstance(source, str) and source in read for source in compared.channels)
        soft = train_reader(relay, folder) if tuned else None
        for source in compared.channels:
            name = source if isinstance(source, str) else source.name
            if name in ready:
                found.pipelines[name] = ready[name]
            elif isinstance(source, ChannelSource):
                found.pipelines[name] = _fitted(relay, source, folder)
            elif name in read:
                found.pipelines[name] = read[name]()
                if soft is not None:
                    found.pipelines[f"{name}, tuned reader"] = read[name](soft)
            else:
                found._add_trained(name, relay, lora=lora)
        return found

    def _add_trained(self, name: str, relay: Relay, *, lora: bool) -> None:
        """The channel of the recipe's own projector, and its controls."""
        compared, folder = relay.recipe.compared, trained_folder(relay.recipe)
        projector, home = train_projector(relay, folder)
        size = sum(parameter.numel() for parameter in projector.parameters())
        self.notes["projector_folder"] = os.path.relpath(home, relay.recipe.out)
        self.notes["projector_parameters"] = size
        self.pipelines[name] = trained_pipeline(relay, projector)
        if compared.constant is not None:
            free = train_vectors(relay, compared.constant, folder, what="constant")
            self.constants[name] = relay.constant(free)
        if lora and compared.lora is not None:
            receiver = train_lora(relay, compared.lora, size, folder)
            self.adapted[name] = replace(relay, receiver=receiver).without_messages()


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """A relay that is ready to be asked. seconds: the time to train what was missing."""

    relay: Relay
    task: Task
    found: T
    seconds: float


def prepared(recipe: RelayRecipe, *, lora: bool = True) -> Prepared[RelayPipelines]:
    """The relay of a recipe with all its pipelines. lora: as in `RelayPipelines.of`.

    If a study that the recipe lists prepares its pipelines, the other studies measure these too.
    """
    for name, settings in recipe.studies.items():
        prepare = study(name).prepare
        if prepare is not None:
            return prepare(recipe, settings, lora=lora)
    return made(recipe, lambda relay: RelayPipelines.of(relay, lora=lora))


def made(recipe: RelayRecipe, make: Callable[[Relay], T]) -> Prepared[T]:
    """What `make` makes of the relay of a recipe. What it needs and is not trained yet is trained.

    With `engine: vllm` it is made twice. The first time both models are in transformers, as
    training needs. Then the receiver is freed, the engine starts, and has its weights alone.
    """
    relay = Relay.of(recipe)
    task = asked(relay)
    if recipe.engine != "transformers":  # refused before anything is trained
        check_engine(relay.receiver)
    start = perf_counter()
    found = make(relay)
    seconds = perf_counter() - start
    if recipe.engine != "transformers":
        dtype, items = relay.receiver.spec.dtype, relay.task
        sender = None if relay.sender is relay.receiver else relay.sender
        del relay, found
        relay = _in_engine(recipe, sender, dtype, items)
        found = make(relay)
    return Prepared(relay, task, found, seconds)


def _in_engine(recipe: RelayRecipe, sender: LanguageModel | None, dtype: str, task: Task) -> Relay:
    """The relay with its receiver in an engine, and its sender too unless it is another model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sender is not None:
        PlainConsole(stderr=True).print(
            f"the sender {sender.name!r} stays in transformers: a process has one engine, and it "
            "has the receiver"
        )
    engine = load_in(recipe.pair.receiver.model, engine=recipe.engine, dtype=dtype)
    assert isinstance(engine, VllmModel), "transformers are no engine"
    return Relay(recipe, sender or engine.inner, engine.inner, task, engine)


def asked(relay: Relay) -> Task:
    """The task whose test items are asked."""
    transfer = relay.recipe.compared.transfer
    return relay.task if transfer is None else transferred(relay.task, transfer)


def noted(relay: Relay, recipe: RelayRecipe) -> dict[str, Any]:
    """Notes of a result: the recipe, and the task trained on if another task is asked."""
    trained_on = {} if recipe.compared.transfer is None else {"trained_on": relay.task.name}
    return {**trained_on, **kept(recipe)}


def curves(relay: Relay, lengths: Sequence[int] = ()) -> Iterator[tuple[str, dict[str, Pipeline]]]:
    """Each channel and its pipelines by length. The tuned reader reads words, if there is one."""
    compared, folder = relay.recipe.compared, trained_folder(relay.recipe)
    words = {"full-text": relay.full_text, "text": relay.text}
    ready = _made(relay)  # refused at once
    for source in compared.channels:
        name = source if isinstance(source, str) else source.name
        if name in words:
            soft = train_reader(relay, folder)
            cut = {f"{n} tokens": words[name](soft, n) for n in lengths}
            yield f"{name}, tuned reader" if soft else name, {**cut, WHOLE: words[name](soft)}
        elif name in ready:
            yield name, _by_length(ready[name], lengths)
        elif isinstance(source, ChannelSource):
            yield name, _by_length(_fitted(relay, source, folder), lengths)
        else:
            projector, _ = train_projector(relay, folder)
            yield name, _by_length(trained_pipeline(relay, projector), lengths)


def _made(relay: Relay) -> dict[str, Pipeline]:
    """Pipelines over channels that need only their settings, by name."""
    found: dict[str, Pipeline] = {}
    for source in relay.recipe.compared.channels:
        match source:
            case "handoff":
                found["handoff"] = relay.pipeline_over(Handoff())
            case "oracle":
                found["oracle"] = relay.oracle()
            case ChannelSource(channel=dict(options)):
                side = relay.same_model if source.sender == "receiver" else relay
                channel = channel_of(options).calibrated(relay.receiver, relay.samples())
                found[source.name] = side.pipeline_over(channel)
            case _:
                pass
    return found


def _fitted(relay: Relay, source: ChannelSource, folder: Path) -> Pipeline:
    """The pipeline over a channel whose map is fitted now, or is in `folder` already."""
    side = relay.same_model if source.sender == "receiver" else relay
    still = Stage(steps=0, lr=1.0)
    changed = {"projector": source.projector, "warmup": still, "training": still}
    side = replace(side, recipe=relay.recipe.model_copy(update=changed))
    return trained_pipeline(side, train_projector(side, folder)[0])


def _by_length(pipeline: Pipeline, lengths: Sequence[int]) -> dict[str, Pipeline]:
    """The pipeline with its messages cut to their first positions, and whole at the end.

    Only whole if the message begins with the instructions, or is words.
    """
    found: dict[str, Pipeline] = {}
    for n in () if any(_uncut(edge.channel) for edge in pipeline.edges) else lengths:
        edges = [replace(edge, channel=Prefix(edge.channel, n)) for edge in pipeline.edges]
        agents = list(pipeline.agents.values())
        found[f"{n} positions"] = Pipeline(agents, edges, rounds=pipeline.rounds)
    return {**found, WHOLE: pipeline}


def _uncut(channel: Channel) -> bool:
    return channel.in_front or isinstance(channel, TextChannel)
