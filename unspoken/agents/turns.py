"""What a pipeline asks of an agent, in this process or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from unspoken.agents.edges import Edge
from unspoken.agents.roles import Fields, Role
from unspoken.types import Finish, OnText, Spec, Usage

__all__ = ["Participant", "Size", "TurnResult"]

M = TypeVar("M")
"""A message: the `Message` itself in this process, or a reference to its bytes elsewhere."""


class Size(NamedTuple):
    """What a message takes: bytes on the wire, and positions of its longest row.

    The positions of words are their tokens by the sender's tokenizer.
    """

    bytes: int
    positions: int


@dataclass(frozen=True, slots=True, eq=False)
class TurnResult(Generic[M]):
    """A turn: B strings if the agent wrote, a message for each edge, the cost of each item.

    reasoning and finish: the thoughts that came before the words of each row, None for none, and
    how each row ended. Both are () if the agent did not write. sizes: one for each message. A turn
    that was cancelled sends nothing.
    """

    text: tuple[str, ...] | None
    messages: tuple[M, ...]
    usage: tuple[Usage, ...]
    reasoning: tuple[str | None, ...] = ()
    finish: tuple[Finish, ...] = ()
    sizes: tuple[Size, ...] = ()


class Participant(Protocol[M]):
    """An agent that takes turns: an `Agent`, or one that runs in another process."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def spec(self) -> Spec: ...

    def check_room(self, fields: Fields) -> None:
        """Raise `ContextTooLong` for items that are too long even without messages."""
        ...

    def take_turn(
        self,
        fields: Fields,
        received: Sequence[tuple[Edge, M]],
        outgoing: Sequence[Edge],
        *,
        answers: bool = False,
        step: int = 0,
        on_text: OnText | None = None,
    ) -> TurnResult[M]:
        """Take a turn over B items: read messages, each with the edge it came over, and send.

        A message is sent for each edge in `outgoing`. Edges with the same key share it. answers:
        words are needed, even if no edge needs them. step: which turn of the run it is, from 1.
        on_text: gets the number of an item and its new words, as they come.
        """
        ...
