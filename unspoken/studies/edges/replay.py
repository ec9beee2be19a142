"""A batch of items through one pipeline again and again, with other messages on some edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from unspoken.agents import Edge, Incoming
from unspoken.pipeline import Pipeline, Query, TurnRequest, fields_of
from unspoken.wire import Message

__all__ = ["Answered", "Carry", "Replay", "Sent", "as_sent"]

Carry = Callable[[int, int, Message], Message | None]
"""What arrives of a message, by its turn and the number of its edge. None: nothing arrives."""

Sent = Mapping[tuple[int, int], Message]
"""Messages of B rows by turn and number of the edge."""


def as_sent(step: int, edge: int, message: Message) -> Message:
    """Every message arrives."""
    return message


@dataclass(frozen=True, slots=True)
class Answered:
    """What B items were answered: log p of the right answers in nats, and words if any."""

    nats: tuple[float, ...]
    words: tuple[str, ...] = ()


class Replay:
    """A batch of B items, on which a pipeline can be asked many times.

    A turn depends on the items and on the messages that the agent receives. If an agent receives
    the same messages, its earlier turn is reused: it sends the same, bit for bit. An agent sends
    over all its edges, whatever arrives. Messages are kept as long as this object lives.

    answers: what the answering agent should say about each item, as it would write it.

    >>> from unspoken import Agent, TextChannel
    >>> from unspoken.testing import tiny_backbone
    >>> model = tiny_backbone()
    >>> edge = Edge("planner", "solver", TextChannel(limit=4))
    >>> pair = Pipeline([Agent("planner", model), Agent("solver", model)], [edge])
    >>> found = Replay(pair, ["how many?"], [" two"]).ask(lambda step, edge, message: None)
    >>> found.words[0] == pair.without_messages().run("how many?").answer
    True
    """

    def __init__(
        self, pipeline: Pipeline, queries: Sequence[Query], answers: Sequence[str] = ()
    ) -> None:
        self.pipeline, self.fields, self.answers = pipeline, fields_of(queries), answers
        self._agents = pipeline.agents  # raises if they are not of this process
        self._numbers = {id(edge): n for n, edge in enumerate(pipeline.edges)}
        self._taken: dict[object, Sequence[Message]] = {}
        self._answered: dict[object, Answered] = {}

    @torch.no_grad()
    def sent(self) -> Sent:
        """What every edge carries when all messages arrive."""
        found: dict[tuple[int, int], Message] = {}

        def keep(step: int, edge: int, message: Message) -> Message:
            found[step, edge] = message
            return message

        self.pipeline.run_turns(partial(self._take, keep))
        return found

    @torch.no_grad()
    def ask(self, carry: Carry = as_sent, *, write: bool = True) -> Answered:
        """Answer the items over what `carry` lets arrive; without `write` only score answers."""
        received = self.pipeline.run_turns(partial(self._take, carry))
        key = _key(received)
        found = self._answered.get(key)
        if found is None or (write and not found.words):
            self._answered[key] = found = self._answer(received, write)
        return found

    def _take(self, carry: Carry, requests: Sequence[TurnRequest]) -> list[list[Message | None]]:
        return [self._turn(carry, request) for request in requests]

    def _turn(self, carry: Carry, request: TurnRequest) -> list[Message | None]:
        key = (request.step, _key(request.received))
        if key not in self._taken:
            participant = self._agents[request.agent]
            result = participant.take_turn(
                self.fields, request.received, request.outgoing, step=request.step
            )
            self._taken[key] = result.messages
        pairs = zip(request.outgoing, self._taken[key], strict=True)
        return [carry(request.step, self._numbers[id(edge)], message) for edge, message in pairs]

    def _answer(self, received: Sequence[tuple[Edge, Message]], write: bool) -> Answered:
        agent = self.pipeline.answerer
        arrivals = [Incoming(edge.channel, message) for edge, message in received]
        context = agent.read(self.fields, arrivals).context
        nats = -agent.model.score(context, self.answers).double()
        settings = agent.settings_for(self.fields)
        words = agent.model.write(context, settings).words if write else ()
        return Answered(tuple(cast(list[float], nats.tolist())), tuple(map(str.strip, words)))


def _key(received: Sequence[tuple[Edge, Message]]) -> object:
    """What an agent receives, by the identity of the messages, not by their content."""
    return tuple((id(edge), message) for edge, message in received)
