"""What the answers of a pipeline depend on, as content of a key."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from unspoken.agents import Agent
from unspoken.evaluation.content import content
from unspoken.identity import digest
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import device_of, unwrapped

__all__ = ["identity", "key_of"]


def key_of(pipeline: Pipeline, *more: Any) -> str:
    """What a measurement depends on, in 16 hex digits: the pipeline, and what else is given.

    The kind of device of each model counts too: other kernels round otherwise.
    """
    devices = [device_of(pipeline.agents[name].model).type for name in pipeline.order]
    return digest([identity(pipeline), devices, *more])[:16]


def identity(pipeline: Pipeline) -> list[Any]:
    """What a pipeline says of its answers: models, roles, settings, trained vectors, channels.

    Raises `NoIdentity` if a channel or an agent holds something that has no content.
    """
    return [
        pipeline.order,
        pipeline.rounds,
        [_agent(pipeline.agents[name]) for name in pipeline.order],
        [_edge(edge) for edge in pipeline.edges],
    ]


def _agent(agent: Agent) -> list[Any]:
    """What it holds, what the chat template makes of its role, how it spells and where it ends."""
    model = unwrapped(agent.model)
    ends: Any = getattr(model, "ends", ())
    spells = _spells(getattr(model, "tokenizer", None))
    return [content(agent, f"agent {agent.name!r}"), list(agent.frame), list(ends), spells]


_known = WeakKeyDictionary[Any, str]()


def _spells(tokenizer: Any) -> str:
    """A digest of all that a tokenizer does, '' for one that does not tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    if tokenizer not in _known:
        _known[tokenizer] = digest(backend.to_str())
    return _known[tokenizer]


def _edge(edge: Edge) -> list[Any]:
    ends = f"from {edge.sender!r} to {edge.receiver!r}"
    channel = content(edge.channel, f"channel {edge.channel.name!r} {ends}")
    pack = content(edge.pack, f"the packing of the edge {ends}")
    return [edge.sender, edge.receiver, channel, pack, edge.shadow]
