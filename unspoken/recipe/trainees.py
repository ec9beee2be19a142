"""Projectors in the making, one kind after the other: shape, channel, and where training starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from unspoken import models
from unspoken.agents import Agent
from unspoken.channels import Channel
from unspoken.evaluation import Item
from unspoken.evaluation.compare import query
from unspoken.pipeline import fields_of
from unspoken.projectors import EmbeddingProjector, Fuser, MemoryProjector, Projector
from unspoken.projectors.alignment import ends_in
from unspoken.projectors.fuser import layer_map
from unspoken.recipe.config import EmbeddingSettings, FusionSettings, MemorySettings
from unspoken.recipe.relay import Relay
from unspoken.training import History, Reconstruction, StoredThoughts
from unspoken.types import MEMORY, Need, Prompt, Text, Thought

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


# -- a cache to a memory ---------------------------------------------------------------------------


def _memory(relay: Relay, settings: MemorySettings, items: Sequence[Item]) -> Trainee:
    sender, receiver = relay.sender, relay.receiver
    turns = torch.stack(sender.frequencies), torch.stack(receiver.frequencies)
    ours, theirs = (
        (spec.layers, spec.kv_heads, spec.head_dim) for spec in (sender.spec, receiver.spec)
    )
    projector = MemoryProjector(
        source=ours,
        target=theirs,
        rotary=(turns[0].shape[1], turns[1].shape[1]),
        target_width=receiver.spec.width,
        **settings.model_dump(exclude={"kind", "texts"}),
        **_identities(relay),
    ).to(receiver.device)
    projector.source_turns.copy_(turns[0])
    projector.target_turns.copy_(turns[1])
    projector.tokenizer = receiver.tokenizer.backend_tokenizer
    projector.start_from(instruction(relay, settings.prompt))
    channel, agent = _speaking(relay, projector)

    def start(fit: Fit) -> dict[str, History]:
        texts = [item.context for item in items[: settings.texts]]
        share = projector.start(*_read_by_both(relay, agent, projector, texts))
        Console(stderr=True).print(
            f"closed-form start: {share:.0%} of the receiver's cache explained"
        )
        return {}

    return Trainee(projector, channel, Told(agent, items, channel.needs), start)


@torch.no_grad()
def _read_by_both(
    relay: Relay, agent: Agent, projector: MemoryProjector, texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """What both models hold of the same positions: (n, states) and (n, targets), bfloat16."""
    device = relay.receiver.device
    order = sorted(set(texts), key=len)
    states: list[Tensor] = []
    targets: list[Tensor] = []
    batches = [order[n : n + 16] for n in range(0, len(order), 16)]
    shown = Console(stderr=True)
    for batch in track(batches, "caches of both models", console=shown, transient=True):
        with torch.autocast(device.type, torch.bfloat16):
            own = agent.hear({"context": tuple(batch)}, needs=frozenset({MEMORY})).memory
            other = relay.receiver.read(_as_read(relay, batch), needs=frozenset({MEMORY})).memory
        assert own is not None
        assert other is not None
        assert own.spelling is not None
        assert other.spelling is not None
        found, wanted = projector.states(own), projector.targets(other)
        front = len(other.spelling.words[0]) - len(batch[0]) - 1
        for row in range(len(batch)):
            words, ends = own.spelling.words[row], own.spelling.ends[row]
            place, _ = ends_in(words, ends.cpu(), 0, projector.tokenizer)
            keep = other.spelling.ends[row] > front
            states.append(found[row, place.to(device)].bfloat16())
            targets.append(wanted[row, keep].bfloat16())
    return torch.cat(states), torch.cat(targets)


def _as_read(relay: Relay, texts: Sequence[str]) -> Prompt:
    """The facts as the receiver would read them as words."""
    lead = Text((relay.lead,) * len(texts), shared=True)
    return Prompt((lead, Text(tuple(f"Fact: {text}" for text in texts))), 1)


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
