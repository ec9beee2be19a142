"""What is too long for an agent, worked out from tokens before anything is read.

A cache that is handed over is as long as what its sender reads, so all agents take their turns
here with caches that have a length and no numbers. How long words and vectors will be, only the
sender's turn shows: an agent that gets some is left out, and so is one that runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from unspoken.agents import Agent, Edge, Incoming, Participant
from unspoken.agents.roles import Fields
from unspoken.channels.sender_state import SenderState
from unspoken.protocols import foresees
from unspoken.runs import TurnRequest
from unspoken.types import TEXT, CacheSegment, Need, Rollout, Vectors

__all__ = ["foresee"]

_UNKNOWN = object()
"""Takes the place of a message whose length only the sender's turn shows."""

Take = Callable[[Sequence[TurnRequest]], Sequence[Sequence[Any]]]


def foresee(
    run_turns: Callable[[Take], Sequence[tuple[Edge, Any]]],
    agents: Mapping[str, Participant[Any]],
    fields: Mapping[str, Fields],
    answerer: str,
    *,
    writes: bool,
) -> None:
    """Raise `ContextTooLong` for what an agent could not take in, before anything is read.

    run_turns: lets a function take all turns but the last, see `Pipeline.run_turns`. fields: what
    each agent works on. answerer: the agent that takes the last turn. writes: whether it answers.
    """

    def take(requests: Sequence[TurnRequest]) -> list[list[Any]]:
        return [_sent(agents[one.agent], fields[one.agent], one) for one in requests]

    received = run_turns(take)
    _state(agents[answerer], fields[answerer], received, frozenset({TEXT}), writes=writes)


def _sent(agent: Participant[Any], fields: Fields, request: TurnRequest) -> list[Any]:
    """What an agent sends over each edge: caches without numbers."""
    needs = frozenset[Need]().union(*(edge.needs for edge in request.outgoing))
    state = _state(agent, fields, request.received, needs) if needs else None
    return [
        edge.channel.send(state) if state and edge.channel.by_length else _UNKNOWN
        for edge in request.outgoing
    ]


def _state(
    agent: Participant[Any],
    fields: Fields,
    received: Sequence[tuple[Edge, Any]],
    needs: frozenset[Need],
    *,
    writes: bool = True,
) -> SenderState | None:
    """What an agent holds after its turn, without numbers. None if its length is not known."""
    if not isinstance(agent, Agent) or any(one is _UNKNOWN for _, one in received):
        return None
    model = foresees(agent.model)
    if model is None:
        return None
    steps = {need: need.limit or 0 for need in needs if need.kind == "rollout"}
    prompt = agent.prompt(fields, [Incoming(edge.channel, message) for edge, message in received])
    more = max(agent.most_tokens(needs) if writes else 0, *steps.values(), 0)
    cached = model.foresee(prompt, needs, more)
    return SenderState(
        agent.name,
        agent.model,
        given=(),
        opening=agent.frame.opening,
        cached=cached,
        rollouts={need: _rollout(cached, count) for need, count in steps.items()},
    )


def _rollout(cached: CacheSegment, steps: int) -> Rollout:
    """A rollout of `steps` positions, which spell nothing, without numbers."""
    assert cached.spelling is not None
    kv = tuple(
        (pad(keys, (0, 0, 0, steps)), pad(values, (0, 0, 0, steps))) for keys, values in cached.kv
    )
    mask = pad(cached.mask, (0, steps), value=True)
    spelling = replace(cached.spelling, ends=pad(cached.spelling.ends, (0, steps), value=-1))
    none = Vectors(torch.empty(cached.batch, 0, 0), cached.mask[:, :0])
    return Rollout(none, none, CacheSegment.of(kv, mask, spelling), passes=0)
