"""Agents and edges: who sends to whom, over which channel, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import track

from unspoken.agents import Agent, Edge, Incoming, Participant
from unspoken.agents.roles import FIELDS, Fields
from unspoken.anchors import AnchorPool
from unspoken.audit import Audit
from unspoken.channels.base import check_abilities
from unspoken.errors import PipelineError, WorkerError, unknown
from unspoken.executors import Executor, Here, Make
from unspoken.types import Settings, Usage

__all__ = ["Edge", "Pipeline", "Query", "Run", "Turn", "TurnRequest", "edges_to", "fields_of"]

Query = str | Mapping[str, str]
"""A question, or the fields of an item: {"question": ..., "context": ...}."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's turn on one item: what it wrote, if anything, and what that cost."""

    agent: str
    round: int
    text: str | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class Run:
    """The answer to one question, and how it came about."""

    answer: str
    turns: tuple[Turn, ...]

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
    """An agent's next turn: its number in the run, from 1, what it receives, where it sends."""

    agent: str
    round: int
    step: int
    received: Sequence[tuple[Edge, Any]]
    outgoing: Sequence[Edge]


class Pipeline:
    """Agents joined by channels. The last one answers.

    Agents take turns in an order that respects the edges. With `rounds` above 1 they take turns as
    listed, that many times, and edges may run in circles: a message that goes back arrives in the
    next round. What cannot work is refused here, before any forward pass.

    executor: where agents run. For another process, an agent is given as a function that makes it
    there. `close`, or the end of a `with`, ends what the executor has started.
    audit: a folder, or an `Audit`, that keeps every message. Agents then run in this process.

    >>> from unspoken.channels import TextChannel
    >>> from unspoken.testing import tiny_backbone
    >>> model = tiny_backbone()
    >>> planner, solver = Agent("planner", model), Agent("solver", model)
    >>> pair = Pipeline([planner, solver], [Edge("planner", "solver", TextChannel(limit=4))])
    >>> [turn.agent for turn in pair.run("how many?").turns]
    ['planner', 'solver']
    """

    def __init__(
        self,
        agents: Sequence[Agent | Make],
        edges: Sequence[Edge] = (),
        *,
        rounds: int = 1,
        executor: Executor = Here(),
        audit: Audit | str | Path | None = None,
    ) -> None:
        self.audit = Audit(audit) if isinstance(audit, str | Path) else audit
        self.edges, self.rounds = tuple(edges), rounds
        if rounds < 1:
            raise PipelineError(f"a pipeline runs for at least 1 round, got rounds={rounds}")
        with ExitStack() as opened:
            placed = executor.place(agents, self.edges, opened)
            self._participants: dict[str, Participant[Any]] = {
                agent.name: agent for agent in placed
            }
            if self.audit is not None and not all(isinstance(a, Agent) for a in placed):
                raise PipelineError(
                    "an audit keeps what agents of this process send, but these run elsewhere; "
                    "leave out the executor, or save messages where they are made"
                )
            if not agents or len(self._participants) < len(agents):
                raise PipelineError(
                    f"a pipeline needs agents with different names, got {[a.name for a in placed]}"
                )
            self._check_edges()
            self.order = self._order()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what the executor has started. Agents in this process stay as they are."""
        self._opened.close()

    @property
    def agents(self) -> dict[str, Agent]:
        """The agents by name. Raises `PipelineError` if they do not run in this process."""
        found = {n: agent for n, agent in self._participants.items() if isinstance(agent, Agent)}
        if len(found) < len(self._participants):
            raise PipelineError(
                f"agents {list(self._participants)} run in other processes and can only be asked; "
                "make the pipeline without an executor to compare it, to pool caches, or to reach "
                "them"
            )
        return found

    @property
    def answerer(self) -> Agent:
        """The agent whose words are the answer: the last to take its turn."""
        return self.agents[self.order[-1]]

    def without_messages(self) -> Pipeline:
        """The answering agent without messages."""
        return Pipeline([self.answerer])

    def with_edges(self, edges: Sequence[Edge]) -> Pipeline:
        """The same answering agent with some of the edges, and with the agents that send over them.

        An edge that does not reach the answering agent, directly or through other agents, is left
        out. Agents take their turns in the old order.
        """
        answerer = self.answerer
        kept = edges_to(edges, answerer.name)
        received = {edge.sender for edge in kept} | {answerer.name}
        agents = [self.agents[name] for name in self.order if name in received]
        return Pipeline(agents, kept, rounds=self.rounds, audit=self.audit)

    def with_answer_settings(self, settings: Settings) -> Pipeline:
        """The same pipeline, its answering agent writing by other settings."""
        agents = {**self.agents, self.order[-1]: replace(self.answerer, settings=settings)}
        return Pipeline(list(agents.values()), self.edges, rounds=self.rounds, audit=self.audit)

    def served_by(self, pool: AnchorPool) -> Pipeline:
        """The same pipeline, its agents reading from one pool of caches."""
        agents = [replace(agent, model=pool.wrap(agent.model)) for agent in self.agents.values()]
        return Pipeline(agents, self.edges, rounds=self.rounds, audit=self.audit)

    def _check_edges(self) -> None:
        for edge in self.edges:
            for name in (edge.sender, edge.receiver):
                if name not in self._participants:
                    known = self._participants
                    raise unknown("agent", name, known, "Edges join agents of the pipeline.")
            sender, receiver = self._participants[edge.sender], self._participants[edge.receiver]
            check_abilities(edge.channel, edge.needs, sender.spec, receiver.spec)
            edge.channel.check(sender.spec, receiver.spec)
            if isinstance(sender, Agent) and isinstance(receiver, Agent):
                edge.channel.ask(sender.model, receiver.model)
            edge.pack.check(sender.spec.layers)
            if not (receiver.role.takes_messages or edge.channel.in_front):
                raise PipelineError(
                    f"{edge.receiver!r} receives messages from {edge.sender!r}, but its template "
                    "has no {messages}; put it where messages belong"
                )

    def _order(self) -> list[str]:
        if self.rounds > 1:
            return list(self._participants)
        graph = TopologicalSorter({name: () for name in self._participants})
        for edge in self.edges:
            graph.add(edge.receiver, edge.sender)
        try:
            return list(graph.static_order())
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise PipelineError(
                f"the edges run in a circle, {circle}; take one away or set rounds to 2 or more"
            ) from error

    # -- running -----------------------------------------------------------------------------------

    def run(self, query: Query, *, on_text: Callable[[str], None] | None = None) -> Run:
        """Answer one question. `on_text` gets the answer's words as they come."""
        self._check_items([query], [query])
        return self._batch([query], [query], on_text)[0]

    async def arun(self, query: Query) -> Run:
        """`run` in a separate thread, for asyncio programs."""
        return await asyncio.to_thread(self.run, query)

    def run_many(
        self,
        queries: Sequence[Query],
        *,
        batch_size: int = 16,
        elsewhere: Sequence[Query] | None = None,
        progress: str = "",
    ) -> list[Run]:
        """Answer many questions, batched by length. Runs come back in the order of `queries`.

        elsewhere: items that all agents but the answering one work on instead, so that each answer
        is given with another item's message. progress: the title of a progress bar. If the
        worker of an agent is lost, its `WorkerError` has the runs of the batches before as `done`.
        """
        given = queries if elsewhere is None else elsewhere
        if len(given) != len(queries) or batch_size < 1:
            raise PipelineError(
                f"{len(queries)} queries need as many items elsewhere, got {len(given)}, and a "
                f"batch size of at least 1, got {batch_size}"
            )
        self._check_items(queries, given)
        if not all(one.spec.batches for one in self._participants.values()):
            batch_size = 1
        order = sorted(range(len(queries)), key=lambda n: (_length(given[n]), _length(queries[n])))
        batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
        runs: dict[int, Run] = {}
        console = Console(stderr=True)
        for batch in track(
            batches, progress, console=console, disable=not progress, transient=True
        ):
            try:
                found = self._batch([queries[n] for n in batch], [given[n] for n in batch])
            except WorkerError as error:
                error.done = runs
                raise
            runs.update(zip(batch, found, strict=True))
        return [runs[n] for n in range(len(queries))]

    def _check_items(self, queries: Sequence[Query], given: Sequence[Query]) -> None:
        """Raise `EmptyPrompt` or `UnknownName` for the items that an agent could not read."""
        answer_fields, sender_fields = fields_of(queries), fields_of(given)
        participants = {self.order[-1], *(edge.sender for edge in self.edges)}
        for name in self.order if queries else ():
            if name in participants:
                fields = answer_fields if name == self.order[-1] else sender_fields
                self._participants[name].role.check(fields)

    @torch.no_grad()
    def incoming(self, queries: Sequence[Query]) -> list[Incoming]:
        """The messages that reach the answering agent for its last turn, B rows each.

        All other agents take all their turns, and nothing is answered. Raises `PipelineError` if
        agents do not run in this process.
        """
        _ = self.agents  # raises if they run elsewhere
        self._check_items(queries, queries)
        fields = fields_of(queries)
        received, _ = self._run_turns(fields, fields)
        return [Incoming(edge.channel, message) for edge, message in received]

    @torch.no_grad()
    def _batch(
        self,
        queries: Sequence[Query],
        given: Sequence[Query],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Run]:
        answer_fields, sender_fields = fields_of(queries), fields_of(given)
        received, turns = self._run_turns(answer_fields, sender_fields)
        last = self.order[-1]
        result = self._participants[last].take_turn(
            answer_fields, received, [], answers=True, on_text=on_text
        )
        text = result.text
        assert text is not None, "an answer is text"
        for row, words, cost in zip(turns, text, result.usage, strict=True):
            row.append(Turn(last, self.rounds, words, cost))
        return [Run(words.strip(), tuple(row)) for words, row in zip(text, turns, strict=True)]

    def _run_turns(
        self, answer_fields: Fields, sender_fields: Fields
    ) -> tuple[list[tuple[Edge, Any]], list[list[Turn]]]:
        """All turns but the last: what the answering agent receives, and the turns of each row."""
        last, log = self.order[-1], self.audit.run() if self.audit else None
        turns: list[list[Turn]] = [[] for _ in next(iter(answer_fields.values()))]

        def take(request: TurnRequest) -> Sequence[Any]:
            fields = answer_fields if request.agent == last else sender_fields
            result = self._participants[request.agent].take_turn(
                fields, request.received, request.outgoing, answers=False, step=request.step
            )
            for edge, message in zip(request.outgoing, result.messages, strict=True):
                if log is not None:
                    log.record(message, edge.channel, self.agents[edge.receiver], result.usage)
            for row, cost in enumerate(result.usage):
                words = result.text[row] if result.text is not None else None
                turns[row].append(Turn(request.agent, request.round, words, cost))
            return result.messages

        return self.run_turns(take), turns

    def run_turns(self, take: Callable[[TurnRequest], Sequence[Any]]) -> list[tuple[Edge, Any]]:
        """Let `take` take all turns but the last, and return what the answering agent receives.

        take: makes one message for each edge of `outgoing`. None is not delivered.
        """
        inbox: dict[str, list[tuple[Edge, Any]]] = {name: [] for name in self._participants}
        rounds = range(1, self.rounds + 1)
        step = 1
        for number, name in [(number, name) for number in rounds for name in self.order][:-1]:
            outgoing = [edge for edge in self.edges if edge.sender == name]
            if not outgoing:
                continue
            received, inbox[name] = inbox[name], []
            for edge, message in zip(
                outgoing, take(TurnRequest(name, number, step, received, outgoing)), strict=True
            ):
                if message is not None:
                    inbox[edge.receiver].append((edge, message))
            step += 1
        return inbox[self.order[-1]]


def edges_to(edges: Sequence[Edge], to: str) -> list[Edge]:
    """The edges whose messages reach an agent, directly or through other agents."""
    reached, before = {to}, set[str]()
    while reached != before:
        before = reached
        reached = reached | {edge.sender for edge in edges if edge.receiver in reached}
    return [edge for edge in edges if edge.receiver in reached]


def _length(query: Query) -> int:
    return len(query) if isinstance(query, str) else sum(map(len, query.values()))


def fields_of(queries: Sequence[Query]) -> dict[str, tuple[str, ...]]:
    """What agents work on: the fields of B queries, side by side. Raises `UnknownName`."""
    rows = [{"question": query} if isinstance(query, str) else query for query in queries]
    for row in rows:
        if odd := set(row) - set(FIELDS):
            raise unknown("field", min(odd), FIELDS, "An item has a question and a context.")
    return {name: tuple(row.get(name, "") for row in rows) for name in FIELDS}
