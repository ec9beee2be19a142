"""What a pipeline is asked, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from unspoken.agents import Edge
from unspoken.agents.roles import FIELDS
from unspoken.errors import QueryError, check_unicode, unknown
from unspoken.types import Finish, Usage

__all__ = ["LeftOut", "Query", "Run", "Turn", "TurnRequest", "fields_of", "listed"]

Query = str | Mapping[str, str]
"""A question, or the fields of an item: {"question": ..., "context": ...}."""


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

    exchanges: how many of its oldest exchanges, since the conversation began.
    """

    agent: str
    exchanges: int


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


def fields_of(queries: Sequence[Query]) -> dict[str, tuple[str, ...]]:
    """What agents work on: the fields of B queries, side by side.

    Raises `QueryError` for what is no query, `UnknownName` for a field that no role has.
    """
    rows = [_fields(n, query) for n, query in enumerate(listed(queries))]
    return {name: tuple(row.get(name, "") for row in rows) for name in FIELDS}


def listed(queries: Any) -> list[Query]:
    """Many queries as a list. Raises `QueryError` for a single one, and for what is none."""
    single = isinstance(queries, str | Mapping)
    if single or not hasattr(queries, "__iter__"):
        shown = _shown(cast(object, queries))
        raise QueryError(
            f"many queries are a list, but this was given: {shown}; put a single one in brackets, "
            "or call `run`"
        )
    return list(cast(Iterable[Query], queries))


def _fields(n: int, query: Any) -> Mapping[str, str]:
    given: Any = {"question": query} if isinstance(query, str) else query
    if not isinstance(given, Mapping):
        raise QueryError(
            f"query {n} is {_shown(given)}; give a question, or a dictionary with "
            "a question and a context"
        )
    row = cast(Mapping[Any, Any], given)
    for name, words in row.items():
        if name not in FIELDS:
            raise unknown("field", str(name), FIELDS, "An item has a question and a context.")
        if not isinstance(words, str):
            raise QueryError(f"the {name} of query {n} is {_shown(words)}; give words")
        check_unicode(f"the {name} of query {n}", words, QueryError)
    return row


def _shown(given: object) -> str:
    words = repr(given)
    return f"{words[:60]}... of type {type(given).__name__}" if len(words) > 60 else words
