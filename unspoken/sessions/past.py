"""The words of a conversation: what each agent has read and written, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unspoken.agents import Edge
from unspoken.agents.roles import Fields
from unspoken.runs import Query, fields_of
from unspoken.types import FieldValue
from unspoken.wire import Message

__all__ = ["Exchange", "Past", "asked"]


def asked(query: Query) -> str | dict[str, FieldValue]:
    """A question, or the fields that an item has: a copy, which nobody changes."""
    if isinstance(query, str):
        return query
    return {name: value for name, (value,) in fields_of([query]).items() if value}


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """One turn of an agent: its item, of one row, the messages that it read, what it wrote.

    words: without thoughts, and without white space at both ends, as a template shows them.
    """

    fields: Fields
    words: str
    received: tuple[tuple[Edge, Message], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """All exchanges of an agent, and those that it still reads: `stays`."""

    exchanges: tuple[Exchange, ...] = field(default=())
    stays: tuple[Exchange, ...] = ()

    def after(self, stays: Sequence[Exchange], more: Sequence[Exchange]) -> Past:
        """The past after a run, in which the agent read `stays` and had some more exchanges."""
        return Past((*self.exchanges, *more), (*stays, *more))

    def without(self, stays: Sequence[Exchange]) -> int:
        """How many exchanges are not read any more, if only these are."""
        kept = {id(one) for one in stays}
        return sum(id(one) not in kept for one in self.exchanges)

    def keeping(self, stays: Sequence[Exchange]) -> Past:
        return replace(self, stays=tuple(stays))
