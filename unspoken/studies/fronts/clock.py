"""Two clocks: seconds from nothing read, and from a sender that has read its text already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from time import perf_counter, process_time
from typing import Literal

import torch

from unspoken.agents import Agent, Edge, Incoming
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps, WriteRequest, Written
from unspoken.channels.sender_state import SenderState
from unspoken.errors import PipelineError
from unspoken.evaluation.statistics import Estimate, resampled
from unspoken.evaluation.timing import Timed
from unspoken.pipeline import Pipeline, Query, fields_of
from unspoken.protocols import device_of
from unspoken.terminal import track
from unspoken.types import TEXT, Usage, Words
from unspoken.wire import Message

__all__ = ["CLOCKS", "Clock", "ClockName", "Clocks", "Seconds", "clocked"]

ClockName = Literal["nothing read", "sender has read"]
CLOCKS: tuple[ClockName, ...] = ("nothing read", "sender has read")
"""The two states in which a clock starts."""

_Timer = Callable[[], float]
_Result = tuple[SenderState, list[Usage]]
_Steps = Steps[_Result]


@dataclass(frozen=True, slots=True)
class Seconds:
    """One item, alone. The instructions of both agents are read before any clock starts.

    reading: the sender reads its text. preparing: it writes a note, or searches. sending: it makes
    the message, and writes it to bytes. taking: the receiver makes a message of the bytes, reads it
    with the question, and writes its first token. finishing: from there to the end of its answer.
    """

    reading: float
    preparing: float
    sending: float
    taking: float
    finishing: float

    def first(self, clock: ClockName) -> float:
        """From the start of a clock to the receiver's first token."""
        read = self.reading if clock == "nothing read" else 0.0
        return read + self.preparing + self.sending + self.taking

    def answer(self, clock: ClockName) -> float:
        """From the start of a clock to the end of the receiver's answer."""
        return self.first(clock) + self.finishing


@dataclass(frozen=True)
class Clock:
    """The seconds of some items, and when and on what they were measured.

    processor: whether they are those of the processor, see `clocked`.
    """

    items: tuple[Seconds, ...]
    processor: bool
    timed: Timed

    def first(self, clock: ClockName) -> float:
        """Seconds until the receiver's first token, the median over items."""
        return median(one.first(clock) for one in self.items)

    def answer(self, clock: ClockName) -> float:
        """Seconds until the end of the receiver's answer, the median over items."""
        return median(one.answer(clock) for one in self.items)

    def share(self, of: Clock, clock: ClockName) -> Estimate:
        """The time to the answer as a part of another arm's, on the same items, in the median."""
        shares = [
            own.answer(clock) / other.answer(clock)
            for own, other in zip(self.items, of.items, strict=True)
        ]
        if len(shares) < 2:
            return Estimate(shares[0], 0.0, inf)
        return resampled(lambda rows: median(shares[row] for row in rows), range(len(shares)))


@dataclass(frozen=True)
class Clocks:
    """The clocks of arms that were timed together, by name."""

    arms: Mapping[str, Clock]


@torch.no_grad()
def clocked(pipelines: Mapping[str, Pipeline], queries: Sequence[Query], title: str) -> Clocks:
    """Answer each query alone, and time each part of the way.

    The arms take turns at each query, so that other work on the machine meets them alike. Nothing
    that was written before is used again. Where one thread of a processor computes, its own seconds
    are counted, which other work lengthens least. Otherwise those of the wall are. Raises
    `PipelineError` unless each pipeline is a sender and a receiver.
    """
    ways = {name: _Way.of(pipeline) for name, pipeline in pipelines.items()}
    fields = [fields_of([query]) for query in queries]
    for way in ways.values():
        way.timed(fields[0])  # what is made at first use is made now
    rows = [{name: way.timed(row) for name, way in ways.items()} for row in track(fields, title)]
    timed = Timed.now(1)
    return Clocks(
        {
            name: Clock(tuple(row[name] for row in rows), way.timer is process_time, timed)
            for name, way in ways.items()
        }
    )


@dataclass(frozen=True)
class _Way:
    """From a sender to the end of the receiver's answer. timer: what counts the seconds."""

    sender: Agent
    edge: Edge
    receiver: Agent
    timer: _Timer

    @classmethod
    def of(cls, pipeline: Pipeline) -> _Way:
        if len(pipeline.edges) != 1 or pipeline.rounds != 1:
            raise PipelineError(
                f"a clock follows one message from a sender to a receiver, but the pipeline has "
                f"{len(pipeline.edges)} edges and {pipeline.rounds} rounds; give it one of each"
            )
        (edge,) = pipeline.edges
        sender, receiver = pipeline.agents[edge.sender], pipeline.answerer
        devices = {device_of(agent.model).type for agent in (sender, receiver)}
        processor = devices == {"cpu"} and torch.get_num_threads() == 1
        return cls(sender, edge, receiver, process_time if processor else perf_counter)

    def timed(self, fields: Fields) -> Seconds:
        """The seconds of one item."""
        state, reading, preparing = self._sent(fields)
        start = self._now()
        data = self.edge.send(state).to_bytes()
        sending = self._now() - start
        return Seconds(reading, preparing, sending, *self._answered(fields, data))

    def _sent(self, fields: Fields) -> tuple[SenderState, float, float]:
        """What the sender holds after its turn, its seconds until it writes, and those from there.

        A sender that reads nothing spends all of them on what it sends.
        """
        sender = replace(self.sender)  # an agent that keeps what it wrote starts anew
        _read_instructions(sender, fields)
        start = self._now()
        steps = sender.work(fields, needs=self.edge.needs)
        begun = _begun(steps)
        ready = self._now()
        writes = isinstance(begun, WriteRequest)
        state, usage = _ended(steps, _written(begun)) if writes else begun
        if not any(cost.read for cost in usage):
            ready = start
        return state, ready - start, self._now() - ready

    def _answered(self, fields: Fields, data: bytes) -> tuple[float, float]:
        """The seconds until the receiver's first token, and from there to its last.

        The answer is written twice: its first token alone, and whole.
        """
        _read_instructions(self.receiver, fields)
        start = self._now()
        arrival = Incoming(self.edge.channel, Message.from_bytes(data))
        request = _begun(self.receiver.work(fields, [arrival], needs=frozenset({TEXT})))
        assert isinstance(request, WriteRequest), "an answer is text"
        read = self._now()
        _written(request, most=1)
        first = self._now()
        _written(request)
        rest = self._now() - first - (first - read)
        return first - start, max(rest, 0.0)

    def _now(self) -> float:
        """The time when all that was begun is over, on a GPU too."""
        if device_of(self.receiver.model).type != "cpu":
            torch.accelerator.synchronize()
        return self.timer()


def _read_instructions(agent: Agent, fields: Fields) -> None:
    """Read an item without words, so that the model has the instructions of this agent."""
    if agent.role.instructions:
        agent.read({name: ("-",) * len(values) for name, values in fields.items()})


def _begun(steps: _Steps) -> WriteRequest | _Result:
    """Let a turn read: what it wants written, or what came of it without."""
    try:
        return next(steps)
    except StopIteration as end:
        return end.value


def _written(request: WriteRequest, most: int | None = None) -> Words:
    """What a turn wants written, or its first `most` tokens."""
    settings = replace(request.settings, max_tokens=most or request.settings.max_tokens)
    return request.model.write(request.context, settings)


def _ended(steps: _Steps, words: Words) -> _Result:
    """What comes of a turn with its words. An agent writes once in a turn."""
    try:
        steps.send(Written(words, 0.0))
    except StopIteration as end:
        return end.value
    raise PipelineError("an agent wanted to write twice in one turn; time agents of this package")
