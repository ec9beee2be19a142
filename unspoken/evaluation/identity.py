"""What the answers of a pipeline depend on, as content of a key."""

from __future__ import annotations

from typing import Any, cast
from weakref import WeakKeyDictionary

from unspoken.agents import Agent
from unspoken.evaluation.content import content
from unspoken.identity import digest
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model, SameWords, device_of, unwrapped

__all__ = ["identity", "key_of"]


def key_of(pipeline: Pipeline, *more: Any) -> str:
    """What a measurement depends on, in 16 hex digits: the pipeline, and what else is given.

    The kind of device of each model counts too, and its engine: other kernels round otherwise.
    """
    places = [_computed_on(pipeline.agents[name].model) for name in pipeline.order]
    return digest([identity(pipeline), places, *more])[:16]


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


def _computed_on(model: Model) -> str:
    """The kind of device, for a model in an engine with the engine's name."""
    found: Any = unwrapped(model)
    return str(getattr(found, "computed_on", device_of(model).type))


def _agent(agent: Agent) -> list[Any]:
    """What it holds, what the chat template makes of its role, how it spells and where it ends."""
    model = agent.model
    while isinstance(model, SameWords):
        model = cast(SameWords[Model], model).inner
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
