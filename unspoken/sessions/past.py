"""The words of a conversation: what each agent has read and written, turn by turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from unspoken.agents import Edge
from unspoken.agents.roles import Fields, Role
from unspoken.runs import Query, fields_of
from unspoken.types import FieldValue, Text
from unspoken.wire import Message

__all__ = ["Exchange", "Past", "Stays", "asked", "item_words", "read_by"]


def asked(query: Query) -> str | dict[str, FieldValue]:
    """A question, or the fields that an item has: a copy, which nobody changes."""
    if isinstance(query, str):
        return query
    return {name: value for name, (value,) in fields_of([query]).items() if value}


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Exchange:
    """One turn of an agent: what it read of an item, of one row, and of messages, what it wrote.

    words: without thoughts, and without white space at both ends, as a template shows them.
    """

    fields: Fields
    words: str
    received: tuple[tuple[Edge, Message], ...] = ()

    @property
    def asked(self) -> str:
        """The words of its item and of the messages that came with it."""
        return item_words(self.fields, (message for _, message in self.received))


def item_words(fields: Fields, messages: Iterable[Message] = ()) -> str:
    """What an item of one row and its messages say in words. Vectors and caches say nothing."""
    found = list[str]()
    for (value,) in fields.values():
        found += [value] if isinstance(value, str) else ["\n".join(one) for one in value]
    found += [one.payload.words[0] for one in messages if isinstance(one.payload, Text)]
    return "\n".join(found)


def read_by(role: Role, fields: Fields) -> Fields:
    """The fields of an item that a role reads. A question without words if it reads none."""
    return {name: fields[name] for name in role.fields if name in fields} or {"question": ("",)}


@dataclass(frozen=True, slots=True)
class Stays:
    """What an agent reads of its past: some exchanges, and before the new item notes of others."""

    exchanges: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """All exchanges of an agent, and those that it still reads: `stays`."""

    exchanges: tuple[Exchange, ...] = field(default=())
    stays: tuple[Exchange, ...] = ()

    def after(self, stays: Sequence[Exchange], more: Sequence[Exchange]) -> Past:
        """The past after a run, in which the agent read `stays` and had some more exchanges."""
        return Past((*self.exchanges, *more), (*stays, *more))

    def gone(self, stays: Sequence[Exchange]) -> tuple[Exchange, ...]:
        """The exchanges that are not read any more, if only these are."""
        kept = {id(one) for one in stays}
        return tuple(one for one in self.exchanges if id(one) not in kept)
