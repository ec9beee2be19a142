"""Cells of vectors: states that are projected, fed back, expected or fused."""

from __future__ import annotations

from dataclasses import replace

import torch

from unspoken.agents import Agent, Role
from unspoken.channels import Embedding, Fusion, LatentRollout, SoftWords
from unspoken.projectors import EmbeddingProjector, Fuser
from unspoken.projectors.fuser import layer_map
from unspoken.types import Spec, Vectors
from unspoken.wire import Message

from .world import CHANGED, CONTEXT, OTHER, QUESTION, SETTINGS, Pair, World, close, must, small

__all__ = ["embedding_in", "embedding_out", "fusion", "rollout", "soft"]


def _projector(source: Spec, target: Spec, layer: int) -> EmbeddingProjector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EmbeddingProjector(
            source_width=source.width,
            target_width=target.width,
            layers=[layer],
            hidden=40,
            source_weights=source.weights,
            target_weights=target.weights,
        ).requires_grad_(False)


_SMALL_SCRIBE = Role(template="{context}", chat=False)
_SMALL_READER = Role(template="{messages}{question}", message="{message}", chat=False)


def embedding_in(world: World) -> None:
    """Vectors of the tiny llama, read by this model."""
    channel = Embedding(_projector(small().spec, world.model.spec, 1))
    scribe = Agent("scribe", small(), role=_SMALL_SCRIBE)
    reader = world.agent("reader", "{messages}{question}", message="Note:{message}\n")
    pair = Pair(channel, scribe, reader)
    message = pair.message()
    payload = message.payload
    assert isinstance(payload, Vectors)
    world.plain.logits_of(world.plain.embed(world.answer))  # can it read vectors at all
    if world.spoil:
        message = Message(message.header, replace(payload, values=payload.values.flip(1)))
    context = pair.read(message)
    world.agree(context, _around(world, payload.values[0]))


def _around(world: World, vectors: torch.Tensor) -> torch.Tensor:
    """What comes after "Note:", vectors and the question."""
    tokens = [*world.ids(f"\n{QUESTION}"), *world.answer]
    parts = (world.plain.embed(world.ids("Note:")), vectors, world.plain.embed(tokens))
    wide, width = vectors.shape[1], parts[0].shape[1]
    must(wide == width, f"its vectors are {wide} wide, but its embeddings {width}")
    return world.plain.logits_of(torch.cat(parts))[-len(world.answer) - 1 :]


def embedding_out(world: World) -> None:
    """States of this model, of a low layer and the last, as they are projected."""
    ids = world.ids(CONTEXT)
    states = world.plain.states(ids)
    reader = Agent("reader", small(), role=_SMALL_READER)
    pairs = {
        layer: Pair(Embedding(projector), world.agent("scribe", "{context}"), reader)
        for layer in (1, len(states) - 1)
        for projector in [_projector(world.model.spec, small().spec, layer)]
    }
    for layer, pair in pairs.items():
        state = pair.state(world.either(CONTEXT, CHANGED))
        close(state.hidden[layer].values[0], states[layer], f"states of layer {layer}")
        sent = pair.channel.send(state).payload
        assert isinstance(sent, Vectors)
        right = Vectors(states[layer][None, :, None], torch.ones(1, len(ids), dtype=torch.bool))
        close(sent.values, pair.channel.projector(right).values, f"vectors of layer {layer}")


def fusion(world: World) -> None:
    """A fuser with all gates shut changes nothing."""
    source, target = small().spec, world.model.spec
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fuser = Fuser(
            source_heads=source.kv_heads,
            source_dim=source.head_dim,
            target_heads=target.kv_heads,
            target_dim=target.head_dim,
            layers=layer_map(target.layers, source.layers, "last_aligned"),
            hidden=24,
            inner=24,
            source_weights=source.weights,
            target_weights=target.weights,
        )
    fuser.eval().requires_grad_(False).gate.fill_(1.0 if world.spoil else -1.0)
    scribe = Agent("scribe", small(), role=_SMALL_SCRIBE)
    pair = Pair(Fusion(fuser), scribe, world.agent("reader", "{context}\n{messages}A:"))
    ids = world.ids(f"{CONTEXT}\nA:")
    rows = world.rows(ids)
    world.plain.generate(ids, SETTINGS.max_tokens)
    context = pair.read(pair.message())
    world.agree(context, rows)
    world.writes(world.model.write(context, SETTINGS), ids)


_STEPS = 3


def rollout(world: World) -> None:
    """Hidden states that are fed back, each at the mean norm of an input embedding."""
    steps = _STEPS - world.spoil
    pair = world.pair(LatentRollout(steps=steps, align="identity"))
    fed = world.plain.fed_back(world.ids(CONTEXT), _STEPS)
    after = world.plain.embed([*world.ids(QUESTION), *world.answer])
    rows = world.plain.logits_of(torch.cat((fed, after)))[-len(world.answer) - 1 :]
    world.agree(pair.read(pair.message()), rows)


_LIMIT = 3


def soft(world: World) -> None:
    """The embeddings that the model expects, and what comes after them."""
    temperature = 1.0 if world.spoil else 2.0
    channel = SoftWords(limit=_LIMIT, temperature=temperature)
    pair = world.pair(channel, message="Note:{message}\n")
    for context in (CONTEXT, OTHER, QUESTION):
        vectors = world.plain.expected(world.ids(context), _LIMIT, 2.0)
        if len(vectors):
            break
    rows = _around(world, vectors)
    message = pair.message(context)
    assert isinstance(message.payload, Vectors)
    close(message.payload.values[0], vectors, "vectors")
    world.agree(pair.read(message), rows)
