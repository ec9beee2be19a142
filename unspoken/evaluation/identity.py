"""What the answers of a pipeline depend on, as content of a key."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from unspoken.agents import Agent, Role
from unspoken.channels import Channel
from unspoken.identity import digest
from unspoken.pipeline import Edge, Pipeline
from unspoken.wire import LOSSLESS

__all__ = ["identity", "key_of"]


def key_of(pipeline: Pipeline, *more: Any) -> str:
    """What a measurement depends on, in 16 hex digits: the pipeline, and what else is given."""
    return digest([identity(pipeline), *more])[:16]


def identity(pipeline: Pipeline) -> list[Any]:
    """What a pipeline's answers depend on: weights, roles, settings, channels, trained vectors."""
    return [
        pipeline.order,
        pipeline.rounds,
        [_agent(pipeline.agents[name]) for name in pipeline.order],
        [_edge(edge) for edge in pipeline.edges],
    ]


def _edge(edge: Edge) -> tuple[Any, ...]:
    known = (edge.sender, edge.receiver, edge.channel.name, _values(edge.channel))
    lossy = edge.pack != LOSSLESS
    return (*known, edge.pack.model_dump()) if lossy else known  # older arms keep their names


def _agent(agent: Agent) -> list[Any]:
    soft = _state(agent.soft) if agent.soft is not None else None
    spec = agent.spec
    dtype = f"torch.{spec.dtype}"  # the name in the keys of what was trained before
    return [spec.weights, dtype, _role(agent.role), asdict(agent.settings), soft]


def _role(role: Role) -> dict[str, Any]:
    found = {_FORMER.get(name, name): value for name, value in asdict(role).items()}
    return {**found, "first": _FORMER.get(role.first, role.first)}


_FORMER = {"instructions": "lead", "opening": "lead"}
"""Earlier names, which the keys of what was trained before keep."""


def _values(thing: object) -> dict[str, Any]:
    named = {_FORMER.get(name, name): value for name, value in vars(thing).items()}
    return {name: _value(value) for name, value in sorted(named.items())}


def _value(value: object) -> Any:
    match value:
        case nn.Module():
            return _state(value)
        case Channel():
            return [value.name, _values(value)]
        case _:
            return repr(value)


def _state(module: nn.Module) -> str:
    found = sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
