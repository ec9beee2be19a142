"""What happens in a run, as it happens: turns, words, messages, what was left out, the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unspoken.agents import Edge, Size
from unspoken.runs import LeftOut, Run, Turn
from unspoken.types import Usage

__all__ = [
    "Event",
    "MessageSent",
    "RunEnded",
    "Tell",
    "TurnEnded",
    "TurnStarted",
    "WordsLeftOut",
    "WordsWritten",
]


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """An agent takes its turn. step: which turn of the run it is, from 1.

    item: which question it is about, where several are asked at once.
    """

    agent: str
    round: int
    step: int
    item: int = 0


@dataclass(frozen=True, slots=True)
class WordsWritten:
    """New words of an agent. Those of a turn, one after the other, are its `Turn.text`.

    No character is cut, and thoughts are not among them.
    """

    agent: str
    round: int
    step: int
    words: str
    item: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MessageSent:
    """A message goes over an edge. It has a row for each item that is asked at once.

    size: its bytes and positions. message: the `Message` itself if the agent runs in this process,
    or else a reference to its bytes. usage: what the turn has cost each item.
    """

    edge: Edge
    round: int
    step: int
    size: Size
    message: Any
    usage: tuple[Usage, ...]

    @property
    def sender(self) -> str:
        return self.edge.sender

    @property
    def receiver(self) -> str:
        return self.edge.receiver

    @property
    def channel(self) -> str:
        """The name of its channel."""
        return self.edge.channel.name


@dataclass(frozen=True, slots=True)
class WordsLeftOut:
    """A conversation is longer than an agent's window, and the oldest of it is no longer read."""

    left_out: LeftOut
    item: int = 0


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """An agent's turn is over: its words, cost and finish are in `turn`."""

    turn: Turn
    step: int
    item: int = 0

    @property
    def agent(self) -> str:
        return self.turn.agent


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The answer to an item is there, or the run was cancelled. Nothing follows for the item."""

    run: Run
    item: int = 0


Event = TurnStarted | WordsWritten | MessageSent | WordsLeftOut | TurnEnded | RunEnded
"""Each turn begins, writes, sends and ends, in this order. `RunEnded` is the last event."""

Tell = Callable[[Event], None]
"""Gets the events of a run, in the thread that computes it."""
