"""Projectors in the making, one kind after the other: shape, channel, and where training starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from unspoken import models
from unspoken.agents import Agent
from unspoken.backbone import causal
from unspoken.channels import Channel
from unspoken.channels.thought import Thought
from unspoken.evaluation.items import query
from unspoken.pipeline import fields_of
from unspoken.projectors import (
    EmbeddingProjector,
    Fuser,
    LinearMap,
    MemoryProjector,
    Projector,
    VocabularyMixing,
)
from unspoken.projectors.alignment import shared_vocabulary
from unspoken.projectors.fuser import layer_map
from unspoken.recipe.parts import (
    EmbeddingSettings,
    FusionSettings,
    LinearSettings,
    MemorySettings,
    MixingSettings,
)
from unspoken.relay.calibration import aligned_states, calibration_texts, read_by_both
from unspoken.relay.relay import Relay
from unspoken.tasks import Item
from unspoken.training import History, Reconstruction, StoredThoughts
from unspoken.types import Need

__all__ = ["Told", "Trainee", "instruction", "trainee"]

Fit = Callable[[nn.Module, Reconstruction], History]


@dataclass
class Trainee:
    """A fresh projector, its channel, and what the sender thinks of items.

    start: what comes before training on answers; it is given a way to train on words. each: told
    the number of every step of training on answers.
    """

    projector: Projector
    channel: Channel
    thoughts: Callable[[Sequence[int]], Thought]
    start: Callable[[Fit], dict[str, History]] = lambda fit: {}
    each: Callable[[int], None] = lambda step: None


class Told:
    """Thoughts of a sender about items, thought anew each time."""

    def __init__(self, sender: Agent, items: Sequence[Item], needs: frozenset[Need]) -> None:
        self.sender, self.items, self.needs = sender, items, needs

    @torch.no_grad()
    def __call__(self, rows: Sequence[int]) -> Thought:
        fields = fields_of([query(self.items[row]) for row in rows])
        return self.sender.think(fields, needs=self.needs)[0]


def trainee(relay: Relay, items: Sequence[Item], validation: int) -> Trainee:
    """The projector that the recipe asks for, seeded; `items` end with the validation items."""
    with torch.random.fork_rng():
        torch.manual_seed(relay.recipe.seed)
        match relay.recipe.projector:
            case EmbeddingSettings() as settings:
                return _embedding(relay, settings, items, validation)
            case MemorySettings() as settings:
                return _memory(relay, settings, items)
            case FusionSettings() as settings:
                return _fusion(relay, settings, items)
            case LinearSettings() as settings:
                return _linear(relay, settings, items)
            case MixingSettings() as settings:
                return _mixing(relay, settings, items)


def instruction(relay: Relay, count: int) -> Tensor:
    """Where free vectors start: embeddings (count, W) of the instruction, repeated if need be."""
    receiver = relay.receiver
    words = receiver.tokens(relay.recipe.prompts.instruction)
    ids = (words * (count // len(words) + 1))[:count]
    return receiver.embed(torch.tensor(ids, dtype=torch.long, device=receiver.device))


def _speaking(relay: Relay, projector: Projector) -> tuple[Channel, Agent]:
    """The channel, and the agent that speaks over it."""
    pair = relay.speaking(projector)
    (edge,) = pair.edges
    return edge.channel, pair.agents[edge.sender]


def _identities(relay: Relay) -> dict[str, Any]:
    sender, receiver = relay.sender.spec, relay.receiver.spec
    return {
        "source_weights": sender.weights,
        "target_weights": receiver.weights,
        "source_tokenizer": sender.tokenizer,
        "target_tokenizer": receiver.tokenizer,
    }


# -- hidden states to embeddings -------------------------------------------------------------------


def _embedding(
    relay: Relay, settings: EmbeddingSettings, items: Sequence[Item], validation: int
) -> Trainee:
    sender, receiver = relay.sender, relay.receiver
    projector = EmbeddingProjector(
        source_width=sender.spec.width,
        target_width=receiver.spec.width,
        **settings.model_dump(exclude={"kind"}),
        scale=float(receiver.table.square().mean().sqrt()),
        **_identities(relay),
    ).to(receiver.device)
    projector.start_from(instruction(relay, settings.prompt))
    channel, agent = _speaking(relay, projector)  # refuses layers that the sender does not have
    states = models.cache_folder() / "states"
    thoughts = StoredThoughts(agent, [query(item) for item in items], settings.layers, states)
    seen = thoughts.states(range(min(len(thoughts), 256)))
    projector.calibrate(seen.values[seen.mask])

    def start(fit: Fit) -> dict[str, History]:
        if not relay.recipe.warmup.steps or settings.vectors is not None:
            return {}
        words = Reconstruction(projector, thoughts, sender, receiver, validation=validation)
        projector.prompt.requires_grad_(False)
        history = fit(projector, words)
        projector.prompt.requires_grad_(True)
        return {"warmup": history}

    return Trainee(projector, channel, thoughts, start)


# -- closed forms: hidden states to embeddings -----------------------------------------------------


def _linear(relay: Relay, settings: LinearSettings, items: Sequence[Item]) -> Trainee:
    projector = LinearMap(
        source_width=relay.sender.spec.width,
        target_width=relay.receiver.spec.width,
        layers=settings.layers,
        kind=settings.kind,
        **_identities(relay),
    ).to(relay.receiver.device)
    channel, agent = _speaking(relay, projector)

    def start(fit: Fit) -> dict[str, History]:
        texts = calibration_texts(relay, items, settings.calibration, settings.texts)
        found = aligned_states(relay, agent, projector.layers, texts)
        share = projector.fit(*found, penalty=settings.penalty)
        Console(stderr=True).print(
            f"{settings.kind}, {len(found[0]):,} positions: {share:.0%} of the embeddings explained"
        )
        return {}

    return Trainee(projector, channel, Told(agent, items, channel.needs), start)


def _mixing(relay: Relay, settings: MixingSettings, items: Sequence[Item]) -> Trainee:
    sender, receiver = relay.sender, relay.receiver
    known = torch.tensor(shared_vocabulary(sender, receiver), device=receiver.device)
    projector = VocabularyMixing(
        source_width=sender.spec.width,
        target_width=receiver.spec.width,
        words=known.shape[1],
        temperature=settings.temperature,
        cap=sender.logit_cap,
        **_identities(relay),
    ).to(receiver.device)
    projector.start(sender.head[known[0]], receiver.embed(known[1]))
    channel, agent = _speaking(relay, projector)
    return Trainee(projector, channel, Told(agent, items, channel.needs))


# -- a cache to a memory ---------------------------------------------------------------------------


def _memory(relay: Relay, settings: MemorySettings, items: Sequence[Item]) -> Trainee:
    sender, receiver = relay.sender, relay.receiver
    turns = (
        torch.stack(causal(sender, "a memory is projected from").frequencies),
        torch.stack(receiver.frequencies),
    )
    ours, theirs = (
        (spec.layers, spec.kv_heads, spec.head_dim) for spec in (sender.spec, receiver.spec)
    )
    projector = MemoryProjector(
        source=ours,
        target=theirs,
        rotary=(turns[0].shape[1], turns[1].shape[1]),
        target_width=receiver.spec.width,
        **settings.model_dump(include={"width", "hidden", "prompt"}),
        vocabulary=len(receiver.table) if settings.words else 0,
        **_identities(relay),
    ).to(receiver.device)
    if settings.words:
        projector.learn_words(receiver.table)
    projector.source_turns.copy_(turns[0])
    projector.target_turns.copy_(turns[1])
    projector.tokenizer = receiver.tokenizer.backend_tokenizer
    projector.start_from(instruction(relay, settings.prompt))
    channel, agent = _speaking(relay, projector)

    def start(fit: Fit) -> dict[str, History]:
        texts = calibration_texts(relay, items, settings.calibration, settings.texts)
        share = projector.start(*read_by_both(relay, agent, projector, texts))
        Console(stderr=True).print(
            f"closed-form start: {share:.0%} of the receiver's cache explained"
        )
        return {}

    return Trainee(projector, channel, Told(agent, items, channel.needs), start)


# -- two caches to one -----------------------------------------------------------------------------


def _fusion(relay: Relay, settings: FusionSettings, items: Sequence[Item]) -> Trainee:
    sender, receiver = relay.sender.spec, relay.receiver.spec
    pairs = layer_map(receiver.layers, sender.layers, settings.map)
    fuser = Fuser(
        source_heads=sender.kv_heads,
        source_dim=sender.head_dim,
        target_heads=receiver.kv_heads,
        target_dim=receiver.head_dim,
        layers=[pair for pair in pairs if pair[0] >= settings.above],
        **settings.model_dump(include={"hidden", "inner", "depth", "rank"}),
        anneal=relay.recipe.training.steps,
        **_identities(relay),
    ).to(relay.receiver.device)
    fuser.begin(settings.gate)
    channel, agent = _speaking(relay, fuser)
    return Trainee(fuser, channel, Told(agent, items, channel.needs), each=fuser.anneal_to)
