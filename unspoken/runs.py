"""What a pipeline is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from unspoken.agents import Edge
from unspoken.agents.roles import Fields, Role
from unspoken.errors import QueryError, shown, unknown
from unspoken.types import FieldValue, Finish, Usage, field_value, size_of

__all__ = [
    "LeftOut",
    "Query",
    "Run",
    "Turn",
    "TurnRequest",
    "check_fields",
    "fields_of",
    "length_of",
    "listed",
]

Query = str | Mapping[str, Any]
"""A question, or the fields of an item: {"question": ..., "documents": {"a.md": ...}}.

A field holds words, or documents as `field_value` takes them.
"""

_ITEM = ("context", "question")
"""The fields that every item has. An agent need not read them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's turn on one item: what it wrote, if anything, and what that cost.

    reasoning: the thoughts before the text, of a model that thinks. finish: how writing ended: at
    an end token or a stop string (`stop`), at `max_tokens` (`length`), or because the run was
    `cancelled`. None if the agent did not write.
    """

    agent: str
    round: int
    text: str | None
    usage: Usage
    reasoning: str | None = None
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What an agent no longer reads of a conversation that is longer than its window.

    exchanges: how many of its oldest exchanges, since the conversation began. notes: of how many of
    these it reads a note, or the words after all, because they fit the question.
    """

    agent: str
    exchanges: int
    notes: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The answer to one question, and how it came about.

    ended_by: the rule of `until` that ended the rounds, '' if none did. left_out: what agents no
    longer read of the conversation that the run is part of.
    """

    answer: str
    turns: tuple[Turn, ...]
    ended_by: str = ""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def finish(self) -> Finish | None:
        """How the answer ended, see `Turn`."""
        return self.turns[-1].finish if self.turns else None

    @property
    def usage(self) -> Usage:
        """Cost of all turns of all agents."""
        return sum((turn.usage for turn in self.turns), Usage())

    @property
    def costs(self) -> dict[str, Usage]:
        """Cost of each agent over all its turns."""
        found: dict[str, Usage] = {}
        for turn in self.turns:
            found[turn.agent] = found.get(turn.agent, Usage()) + turn.usage
        return found


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """An agent's next turn: its number in the run, from 1, what it receives, where it sends.

    answers: its words are the answer, even if no edge needs them.
    """

    agent: str
    round: int
    step: int
    received: Sequence[tuple[Edge, Any]]
    outgoing: Sequence[Edge]
    answers: bool = False


def fields_of(queries: Sequence[Query]) -> dict[str, tuple[FieldValue, ...]]:
    """What agents work on: the fields of B queries, side by side. '' stands where a query has none.

    Raises `QueryError` for what is no query, and for values that are no words and no documents.

    >>> fields_of(["Who?", {"question": "When?", "notes": ["In May."]}])["notes"]
    ('', (Document(name='1', text='In May.'),))
    """
    rows = [_fields(n, query) for n, query in enumerate(listed(queries))]
    names = dict.fromkeys((*_ITEM, *(name for row in rows for name in row)))
    return {name: tuple(row.get(name, "") for row in rows) for name in names}


def check_fields(fields: Fields, roles: Mapping[str, Role], known: Collection[str]) -> None:
    """Raise `UnknownName` for a field that is not known, with what the roles read.

    A question and a context may be left unread, as every item of a task has them.
    """
    odd = [name for name in fields if name not in (*_ITEM, *known)]
    if odd:
        read = {name for role in roles.values() for name in role.fields}
        lacking = {name for role in roles.values() for name in role.lacking(fields)}
        told = [f"{name!r} reads {_listing(role.fields)}" for name, role in roles.items()]
        more = f" Items lack {_listing(sorted(lacking))}." if lacking else ""
        rest = f" The same goes for {_listing(odd[1:])}." if odd[1:] else ""
        raise unknown("field", odd[0], read, f"Agent {', '.join(told)}.{more}{rest}")


def _listing(names: Sequence[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in names) or "no field"


def length_of(query: Query) -> int:
    """How many characters a query has, which tells about how long it takes to read."""
    return sum(size_of(value) for (value,) in fields_of([query]).values())


def listed(queries: Any) -> list[Query]:
    """Many queries as a list. Raises `QueryError` for a single one, and for what is none."""
    single = isinstance(queries, str | Mapping)
    if single or not hasattr(queries, "__iter__"):
        raise QueryError(
            f"many queries are a list, but this was given: {shown(cast(object, queries))}; put a "
            "single one in brackets, or call `run`"
        )
    return list(cast(Iterable[Query], queries))


def _fields(n: int, query: Any) -> dict[str, FieldValue]:
    given: Any = {"question": query} if isinstance(query, str) else query
    if not isinstance(given, Mapping):
        raise QueryError(
            f"query {n} is {shown(given)}; give a question, or a dictionary of fields, such as "
            "a question and documents"
        )
    row = cast(Mapping[Any, Any], given)
    for name in row:
        if not isinstance(name, str):
            raise QueryError(f"query {n} has a field {shown(name)}; name fields by words")
    return {name: field_value(f"the {name} of query {n}", value) for name, value in row.items()}
