"""The key of a learned graph as version 0.1 made it, so that its folder is still found."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from types import NoneType
from typing import Any, cast

import torch
from torch import nn

from unspoken.agents import Agent, Role
from unspoken.channels import Channel
from unspoken.evaluation.content import content
from unspoken.pipeline import Edge, Pipeline
from unspoken.wire import LOSSLESS

__all__ = ["former_identity"]

_NAMES = {"instructions": "lead", "opening": "lead"}
"""Earlier names of what a role and a channel say."""


def former_identity(pipeline: Pipeline) -> list[Any]:
    """What version 0.1 knew of a pipeline.

    It knew some values only by how they are printed, such as tensors, which are printed in part.
    For these the full content is given, so that no folder is taken for another's.
    """
    return [
        pipeline.order,
        pipeline.rounds,
        [_agent(pipeline.agents[name]) for name in pipeline.order],
        [_edge(edge) for edge in pipeline.edges],
    ]


def _edge(edge: Edge) -> tuple[Any, ...]:
    known = (edge.sender, edge.receiver, edge.channel.name, _values(edge.channel))
    return (*known, edge.pack.model_dump()) if edge.pack != LOSSLESS else known


def _agent(agent: Agent) -> list[Any]:
    soft = _state(agent.soft) if agent.soft is not None else None
    dtype = f"torch.{agent.spec.dtype}"
    return [agent.spec.weights, dtype, _role(agent.role), asdict(agent.settings), soft]


def _role(role: Role) -> dict[str, Any]:
    found = {_NAMES.get(name, name): value for name, value in asdict(role).items()}
    for name in ("template_options", "document"):  # version 0.1 had none
        if getattr(role, name) == getattr(Role(), name):
            del found[name]
    return {**found, "first": _NAMES.get(role.first, role.first)}


def _values(channel: Channel) -> dict[str, Any]:
    named = {_NAMES.get(name, name): value for name, value in vars(channel).items()}
    return {name: _value(value, channel.name) for name, value in sorted(named.items())}


def _value(value: object, owner: str) -> Any:
    match value:
        case nn.Module():
            return _state(value)
        case Channel():
            return [value.name, _values(value)]
        case _:
            return repr(value) if _is_plain(value) else content(value, f"channel {owner!r}")


def _is_plain(value: Any) -> bool:
    """Whether a value is printed in full."""
    if isinstance(value, tuple):
        return all(map(_is_plain, cast(tuple[Any, ...], value)))
    return type(value) in (NoneType, bool, int, float, str)


def _state(module: nn.Module) -> str:
    found = sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
