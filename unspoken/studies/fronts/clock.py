"""Two clocks: seconds from nothing read, and from a sender that has read its text already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch

from unspoken.agents import Agent, Edge, Incoming
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps, Written
from unspoken.channels.sender_state import SenderState
from unspoken.errors import PipelineError
from unspoken.evaluation.timing import Timed
from unspoken.pipeline import Pipeline, fields_of
from unspoken.terminal import track
from unspoken.types import TEXT, Usage
from unspoken.wire import Message

__all__ = ["CLOCKS", "Clock", "ClockName", "Seconds", "clocked"]

ClockName = Literal["nothing read", "sender has read"]
CLOCKS: tuple[ClockName, ...] = ("nothing read", "sender has read")
"""The two states in which a clock starts."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """One item, alone. The instructions of both agents are read before any clock starts.

    reading: the sender reads its text. preparing: it writes a note, or searches. sending: it makes
    the message, and writes it to bytes. taking: the receiver makes a message of the bytes and reads
    it with the question, until its first token. finishing: from there to the end of its answer.
    """

    reading: float
    preparing: float
    sending: float
    taking: float
    finishing: float


@dataclass(frozen=True)
class Clock:
    """The seconds of some items, and when and on what they were measured."""

    items: tuple[Seconds, ...]
    timed: Timed

    def first(self, clock: ClockName) -> float:
        """Seconds until the receiver's first token, the median over items."""
        return self._median(clock, lambda one: one.preparing + one.sending + one.taking)

    def answer(self, clock: ClockName) -> float:
        """Seconds until the end of the receiver's answer, the median over items."""
        return self._median(
            clock, lambda one: one.preparing + one.sending + one.taking + one.finishing
        )

    def _median(self, clock: ClockName, after: Callable[[Seconds], float]) -> float:
        read = clock == "nothing read"
        return median(after(one) + (one.reading if read else 0.0) for one in self.items)


@torch.no_grad()
def clocked(pipeline: Pipeline, queries: Sequence[Mapping[str, str]], title: str) -> Clock:
    """Answer each query alone, and time each part of the way.

    Nothing that was written before is used again. Raises `PipelineError` unless the pipeline is a
    sender and a receiver.
    """
    if len(pipeline.edges) != 1 or pipeline.rounds != 1:
        raise PipelineError(
            f"a clock follows one message from a sender to a receiver, but the pipeline has "
            f"{len(pipeline.edges)} edges and {pipeline.rounds} rounds; give it one of each"
        )
    (edge,) = pipeline.edges
    sender, receiver = pipeline.agents[edge.sender], pipeline.answerer
    fields = [fields_of([query]) for query in queries]
    _one(sender, edge, receiver, fields[0])  # what is made at first use is made now
    rows = tuple(_one(sender, edge, receiver, row) for row in track(fields, title))
    return Clock(rows, Timed.now(1))


def _one(sender: Agent, edge: Edge, receiver: Agent, fields: Fields) -> Seconds:
    sender = replace(sender)  # an agent that keeps what it wrote starts anew
    _read_instructions(sender, fields)
    start = perf_counter()
    turn = _Turn.of(sender.work(fields, needs=edge.needs))
    data = edge.send(turn.result[0]).to_bytes()
    sent = perf_counter() - start - turn.seconds
    _read_instructions(receiver, fields)
    start = perf_counter()
    arrival = Incoming(edge.channel, Message.from_bytes(data))
    last = _Turn.of(receiver.work(fields, [arrival], needs=frozenset({TEXT})))
    whole = perf_counter() - start
    first = whole - last.writing + last.wait
    by_model = any(cost.read for cost in turn.result[1])
    reading = turn.seconds - turn.writing if by_model else 0.0
    return Seconds(reading, turn.seconds - reading, sent, first, whole - first)


def _read_instructions(agent: Agent, fields: Fields) -> None:
    """Read an item without words, so that the model has the instructions of this agent."""
    if agent.role.instructions:
        agent.read({name: ("-",) * len(values) for name, values in fields.items()})


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn that is over: all its seconds, those of writing, and those until the first token."""

    result: tuple[SenderState, list[Usage]]
    seconds: float
    writing: float
    wait: float

    @classmethod
    def of(cls, steps: Steps[tuple[SenderState, list[Usage]]]) -> _Turn:
        start, writing, wait = perf_counter(), 0.0, 0.0
        written: Any = None  # None begins a generator
        while True:
            try:
                request = steps.send(written)
            except StopIteration as end:
                return cls(end.value, perf_counter() - start, writing, wait)
            began = perf_counter()
            words = request.model.write(request.context, request.settings)
            took = perf_counter() - began
            writing, wait, written = writing + took, words.wait, Written(words, took)
