"""Agents that work together: they take their turns over some items, and tell what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from unspoken.agents import Agent, Edge, Participant, TurnResult
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps, together
from unspoken.cancelling import is_cancelled
from unspoken.events import MessageSent, RunEnded, Tell, TurnEnded, TurnStarted, WordsWritten
from unspoken.foresight import foresee
from unspoken.runs import Query, Run, Turn, TurnRequest, check_fields, fields_of
from unspoken.types import OnText, Usage
from unspoken.until import Until, holds, rule_name
from unspoken.wiring import side_by_side

__all__ = ["Take", "Team"]

T = TypeVar("T")
_ROWS = 16
"""How many rows of different agents write in one batch at most. Each has a cache of its own."""

Take = Callable[[Sequence[TurnRequest]], Sequence[Sequence[Any]]]
"""Takes turns that do not depend on one another, and makes for each of them one message for each
edge of `outgoing`. None is not delivered. A turn that was cancelled has none."""


@dataclass(frozen=True, slots=True)
class Team:
    """Agents by name, the edges between them, and who takes turns when, the answering one last.

    fields: the names that an item may have.
    """

    participants: Mapping[str, Participant[Any]]
    edges: tuple[Edge, ...]
    order: tuple[str, ...]
    rounds: int = 1
    until: Until | None = None
    fields: frozenset[str] = frozenset()

    def check_items(
        self, queries: Sequence[Query], given: Sequence[Query], *, writes: bool = True
    ) -> None:
        """Raise `UnknownName`, `EmptyPrompt` or `ContextTooLong` for what an agent cannot read.

        writes: whether the answering agent writes after its last turn.
        """
        last = self.order[-1]
        fields = {edge.sender: fields_of(given) for edge in self.edges} | {last: fields_of(queries)}
        readers = {n: self.participants[n] for n in self.order if n in fields}
        roles = {name: one.role for name, one in readers.items()}
        for about in fields.values():
            check_fields(about, roles, self.fields)
        for name, reader in readers.items() if queries else ():
            reader.role.check(fields[name])
            if name == last or self._reads(name):
                reader.check_room(fields[name])
        if queries and any(edge.channel.by_length for edge in self.edges):
            turns = partial(self.run_turns, is_over=lambda: False)
            foresee(turns, self.participants, fields, last, writes=writes)

    def _reads(self, name: str) -> bool:
        """Whether an agent reads its prompt for its messages. One that passes on words does not."""
        return any(edge.needs for edge in self.edges if edge.sender == name)

    @torch.no_grad()
    def answer(
        self, queries: Sequence[Query], given: Sequence[Query], tell: Tell, *, words: bool
    ) -> None:
        """Answer some items at once. All else that comes of it is told.

        given: what all agents but the answering one work on. words: whether words are told as they
        are written.
        """
        course = _Course(self, fields_of(queries), fields_of(given), tell, words=words)
        course.end(self.run_turns(course.take, course.is_over))

    @torch.no_grad()
    def incoming(self, queries: Sequence[Query], tell: Tell) -> list[tuple[Edge, Any]]:
        """The messages that reach the answering agent for its last turn, and their edges."""
        fields = fields_of(queries)
        course = _Course(self, fields, fields, tell, words=False)
        return self.run_turns(course.take, course.is_over)

    def run_turns(self, take: Take, is_over: Callable[[], bool]) -> list[tuple[Edge, Any]]:
        """Let `take` take all turns but the last, and return what the answering agent receives."""
        last = self.order[-1]
        inbox: dict[str, list[tuple[Edge, Any]]] = {name: [] for name in self.participants}
        for requests in self._requests(inbox, is_over):
            for request, messages in zip(requests, take(requests), strict=True):
                for edge, message in zip(request.outgoing, messages, strict=bool(messages)):
                    if message is not None:
                        inbox[edge.receiver].append((edge, message))
        return inbox[last]

    def _requests(
        self, inbox: dict[str, list[tuple[Edge, Any]]], is_over: Callable[[], bool]
    ) -> Iterator[Sequence[TurnRequest]]:
        """The turns before the answer, those together that do not depend on one another.

        Each takes from the inbox what has arrived for it.
        """
        step, last = 0, self.order[-1]
        for number in range(1, self.rounds + 1):
            for names in side_by_side(self.order, self.edges):
                if is_over():
                    return
                requests: list[TurnRequest] = []
                for name in names:
                    outgoing = [edge for edge in self.edges if edge.sender == name]
                    if outgoing and not (number == self.rounds and name == last):
                        step += 1
                        received, inbox[name] = inbox[name], []
                        requests.append(TurnRequest(name, number, step, received, outgoing))
                if requests:
                    yield requests


class _Course:
    """Some items on their way through a team: the turns of each so far.

    ended_by: the rule that ended the rounds. answered: the words that it found are the answer.
    """

    def __init__(
        self, team: Team, answer_fields: Fields, sender_fields: Fields, tell: Tell, *, words: bool
    ) -> None:
        self.team, self.tell, self.words = team, tell, words
        self.answer_fields, self.sender_fields = answer_fields, sender_fields
        self.rows = len(next(iter(answer_fields.values())))
        self.turns: list[list[Turn]] = [[] for _ in range(self.rows)]
        self.round, self.step, self.ended_by, self.answered = 1, 0, "", False

    def is_over(self) -> bool:
        """Whether only the answer is left, or nothing."""
        return bool(self.ended_by) or is_cancelled()

    def take(self, requests: Sequence[TurnRequest]) -> list[Sequence[Any]]:
        """Take turns that do not depend on one another."""
        self.round, self.step = requests[-1].round, requests[-1].step
        found = [self._done(*pair) for pair in zip(requests, self._taken(requests), strict=True)]
        rule = self.team.until
        if rule is not None and holds(rule, Run("", tuple(self.turns[0]))):
            self.ended_by = rule_name(rule)
            self.answered = requests[-1].agent == self.team.order[-1]
        return found

    def end(self, received: Sequence[tuple[Edge, Any]]) -> None:
        """Let the answering agent answer, and tell what came of each item."""
        last = self.team.order[-1]
        if not self.answered:
            round_ = self.round if self.ended_by else self.team.rounds
            request = TurnRequest(last, round_, self.step + 1, received, (), answers=True)
            if is_cancelled():
                self._begin(request)
                self._end(
                    request, [Turn(last, round_, None, Usage(), finish="cancelled")] * self.rows
                )
            else:
                (result,) = self._taken([request])
                self._done(request, result)
        for item, turns in enumerate(self.turns):
            answer = turns[-1].text or ""
            self.tell(RunEnded(Run(answer.strip(), tuple(turns), self.ended_by), item))

    def _taken(self, requests: Sequence[TurnRequest]) -> list[TurnResult[Any]]:
        """The turns of this process are taken in batches."""
        found: dict[int, TurnResult[Any]] = {}
        here: list[tuple[int, Steps[TurnResult[Any]]]] = []
        for n, one in enumerate(requests):
            agent, last = self.team.participants[one.agent], one.agent == self.team.order[-1]
            self._begin(one)
            given = (self.answer_fields if last else self.sender_fields, one.received, one.outgoing)
            answers = one.answers or (last and self.team.until is not None)
            how: dict[str, Any] = {"answers": answers, "step": one.step, "on_text": self._hear(one)}
            if isinstance(agent, Agent):
                here.append((n, agent.turn(*given, **how)))
            else:
                found[n] = agent.take_turn(*given, **how)
        for part in _parts(here, max(1, _ROWS // self.rows)):
            results = together([steps for _, steps in part])
            found |= {n: result for (n, _), result in zip(part, results, strict=True)}
        return [found[n] for n in range(len(requests))]

    def _begin(self, request: TurnRequest) -> None:
        for item in range(self.rows):
            self.tell(TurnStarted(request.agent, request.round, request.step, item))

    def _hear(self, request: TurnRequest) -> OnText | None:
        return partial(self._heard, request) if self.words else None

    def _heard(self, request: TurnRequest, item: int, words: str) -> None:
        self.tell(WordsWritten(request.agent, request.round, request.step, words, item))

    def _done(self, request: TurnRequest, result: TurnResult[Any]) -> Sequence[Any]:
        """Tell what a turn sent and how it ended. Returns its messages."""
        sent = zip(result.messages, result.sizes, strict=True)
        for edge, (message, size) in zip(request.outgoing, sent, strict=False):  # none if cancelled
            self.tell(MessageSent(edge, request.round, request.step, size, message, result.usage))
        self._end(request, _turns(request.agent, request.round, result))
        return result.messages

    def _end(self, request: TurnRequest, turns: Sequence[Turn]) -> None:
        for item, turn in enumerate(turns):
            self.turns[item].append(turn)
            self.tell(TurnEnded(turn, request.step, item))


def _parts(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[n : n + size] for n in range(0, len(things), size))


def _turns(agent: str, number: int, result: TurnResult[Any]) -> list[Turn]:
    """An agent's turn on each item."""
    return [
        Turn(
            agent,
            number,
            result.text[row] if result.text is not None else None,
            cost,
            result.reasoning[row] if result.reasoning else None,
            result.finish[row] if result.finish else None,
        )
        for row, cost in enumerate(result.usage)
    ]
