"""What a trained channel has to define, and what it gets when its training starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, cast

import torch
from torch import nn

from unspoken.agents import Agent
from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.pipeline import Pipeline, Query, fields_of
from unspoken.projectors import Projector
from unspoken.projectors.registry import trained_kind
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.relay import Relay
from unspoken.tasks import Item
from unspoken.training import History, Reconstruction
from unspoken.types import Need

__all__ = [
    "ComputedStates",
    "Identities",
    "Start",
    "StateSource",
    "TrainedChannel",
    "identities",
    "trained_channel",
    "trained_pipeline",
]

S = TypeVar("S", bound=ProjectorSettings)
P = TypeVar("P", bound=Projector)

StateSource = Callable[[Sequence[int]], SenderState]
"""From numbers of items to what the sender computes about these items."""


@dataclass(frozen=True)
class Start:
    """What training starts from.

    sender: the agent that sends over the channel. items: the training items, and after them the
    `validation` items that choose the best weights. sender_states: what the sender computes about
    these items. fit: trains a module as the recipe's stage `warmup` says.
    """

    relay: Relay
    sender: Agent
    items: Sequence[Item]
    validation: int
    sender_states: StateSource
    fit: Callable[[nn.Module, Reconstruction], History]


class TrainedChannel(ABC, Generic[S, P]):
    """A channel whose projector is trained, or fitted in closed form, for one pair of models.

    A subclass names the `settings` that a recipe may give, and the class of `projector` that is
    saved and loaded. It makes a fresh projector, and the channel that sends through it. The other
    methods have a default. One object serves every pair, so it keeps no state.

    closed_form: whether the projector is useful without a training step, from what `start` fits.
    trainable: whether steps of training can make it better.
    """

    settings: type[S]
    projector: type[P]
    closed_form: bool = False
    trainable: bool = True

    @abstractmethod
    def fresh(self, relay: Relay, settings: S) -> P:
        """A new projector for the two models, on the receiver's device. Torch is seeded before."""

    @abstractmethod
    def channel(self, projector: P, settings: S) -> Channel:
        """The channel that sends through the projector."""

    def pipeline(self, relay: Relay, channel: Channel) -> Pipeline:
        """Sender and receiver over the channel. What they read follows from what it does."""
        return relay.pipeline_over(channel)

    def sender_states(
        self, sender: Agent, queries: Sequence[Query], channel: Channel
    ) -> StateSource:
        """What the sender computes about each query, computed each time that training asks."""
        return ComputedStates(sender, queries, channel.needs)

    def start(self, projector: P, settings: S, given: Start) -> Mapping[str, History]:
        """What comes before training on answers: a closed form, or a warm-up and its history."""
        return {}

    def on_step(self, projector: P, step: int) -> None:
        """Called with the number of every step of training on answers."""

    def card(self, projector: P, folder: Path) -> str:
        """Further lines of the card, as items of a list. Pictures go to the folder."""
        return ""


def trained_channel(kind: str) -> TrainedChannel[Any, Any]:
    """The trained channel of a kind. Raises `UnknownName`, and `TypeError` if it is not one."""
    found = trained_kind(kind)
    if not isinstance(found, TrainedChannel):
        raise TypeError(
            f"the entry point {kind!r} of group unspoken.trained_channels names a "
            f"{type(found).__name__}; it has to name a class that derives from TrainedChannel"
        )
    return cast(TrainedChannel[Any, Any], found)


def trained_pipeline(relay: Relay, projector: Projector) -> Pipeline:
    """The pipeline in which the sender sends through a projector of the recipe's kind."""
    settings = relay.recipe.projector
    kind = trained_channel(settings.kind)
    return kind.pipeline(relay, kind.channel(projector, settings))


class ComputedStates:
    """What a sender computes about queries, each time again. Nothing is kept."""

    def __init__(self, sender: Agent, queries: Sequence[Query], needs: frozenset[Need]) -> None:
        self.sender, self.queries, self.needs = sender, queries, needs

    @torch.no_grad()
    def __call__(self, rows: Sequence[int]) -> SenderState:
        fields = fields_of([self.queries[row] for row in rows])
        return self.sender.compute(fields, needs=self.needs)[0]


class Identities(TypedDict):
    """The fingerprints of the two models that a projector is for."""

    source_weights: str
    target_weights: str
    source_tokenizer: str
    target_tokenizer: str


def identities(relay: Relay) -> Identities:
    """The fingerprints of both models, as settings of a projector: `**identities(relay)`."""
    sender, receiver = relay.sender.spec, relay.receiver.spec
    return {
        "source_weights": sender.weights,
        "target_weights": receiver.weights,
        "source_tokenizer": sender.tokenizer,
        "target_tokenizer": receiver.tokenizer,
    }
