"""Agents and edges: who sends to whom, over which channel, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Self, TypeVar, cast

import torch

from unspoken.agents import Agent, Edge, Incoming, Participant, TurnResult
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps, together
from unspoken.anchors import AnchorPool
from unspoken.audit import Audit
from unspoken.cancelling import cancelled_by, is_cancelled
from unspoken.channels.base import check_abilities
from unspoken.errors import PipelineError, WorkerError, require, unknown
from unspoken.executors import Executor, Here, Make
from unspoken.foresight import foresee
from unspoken.runs import (
    Query,
    Run,
    Turn,
    TurnRequest,
    check_fields,
    fields_of,
    length_of,
    listed,
)
from unspoken.terminal import track
from unspoken.types import Settings, Usage, is_count
from unspoken.wiring import check_wiring, edges_to, mermaid, side_by_side, turn_order

__all__ = ["Edge", "Pipeline", "Query", "Run", "Turn", "TurnRequest", "edges_to", "fields_of"]

T = TypeVar("T")
_ROWS = 16
"""How many rows of different agents write in one batch at most. Each has a cache of its own."""


class Pipeline:
    """Agents joined by channels. The last one listed answers, or the one that `answer` names.

    Agents take turns in an order that respects the edges. Those of which none sends to another
    write in one batch if they share a model. With `rounds` above 1 agents take turns as listed,
    that many times, and edges may run in circles: a message that goes back arrives in the next
    round. What cannot work is refused here, before any forward pass.

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
        answer: str | None = None,
        executor: Executor = Here(),
        audit: Audit | str | Path | None = None,
    ) -> None:
        _check_given(agents, edges, rounds, answer)
        self.audit = Audit(audit) if isinstance(audit, str | Path) else audit
        self.edges, self.rounds = tuple(edges), rounds
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
            names = list(self._participants)
            if not agents or len(names) < len(agents):
                raise PipelineError(
                    f"a pipeline needs agents with different names, got {[a.name for a in placed]}"
                )
            if answer is not None and answer not in names:
                raise unknown("agent", answer, names, "One of the agents answers.")
            answer = answer or names[-1]
            check_wiring(names, self.edges, answer)
            self._check_channels()
            self.order = turn_order(names, self.edges, rounds, answer)
            self._fields = {name for one in placed for name in one.role.fields}
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
        return self._asked_as_whole(Pipeline([self.answerer]))

    def with_edges(self, edges: Sequence[Edge]) -> Pipeline:
        """The same answering agent with some of the edges, and with the agents that send over them.

        An edge that does not reach the answering agent, directly or through other agents, is left
        out. Agents take their turns in the old order.
        """
        answerer = self.answerer
        kept = edges_to(edges, answerer.name)
        received = {edge.sender for edge in kept} | {answerer.name}
        agents = [self.agents[name] for name in self.order if name in received]
        return self._asked_as_whole(Pipeline(agents, kept, rounds=self.rounds, audit=self.audit))

    def _asked_as_whole(self, part: Pipeline) -> Pipeline:
        """A part of this pipeline, which takes the same items. Fields for the rest stay unread."""
        part._fields |= self._fields
        return part

    def with_answer_settings(self, settings: Settings) -> Pipeline:
        """The same pipeline, its answering agent writing by other settings."""
        agents = {**self._in_order(), self.order[-1]: replace(self.answerer, settings=settings)}
        return Pipeline(list(agents.values()), self.edges, rounds=self.rounds, audit=self.audit)

    def served_by(self, pool: AnchorPool, *, owner: str = "") -> Pipeline:
        """The same pipeline, its agents reading from one pool of caches.

        owner: pipelines of different owners share nothing, so that neither answers nor reuse tell
        one what the other has asked.
        """
        agents = [
            replace(agent, model=pool.wrap(agent.model, owner=owner))
            for agent in self._in_order().values()
        ]
        return Pipeline(agents, self.edges, rounds=self.rounds, audit=self.audit)

    def _in_order(self) -> dict[str, Agent]:
        """The agents, the answering one last."""
        agents = self.agents
        return {name: agents[name] for name in self.order}

    def _check_channels(self) -> None:
        for agent in self._participants.values():
            if isinstance(agent, Agent):
                _ = agent.frame  # raises if its chat template has no place for an item
        for edge in self.edges:
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

    def __repr__(self) -> str:
        edges = [f"{edge.sender} -{edge.channel.name}-> {edge.receiver}" for edge in self.edges]
        rounds = f", {self.rounds} rounds" if self.rounds > 1 else ""
        told = f"<Pipeline {', '.join([*edges, f'{self.order[-1]} answers'])}{rounds}>"
        return " ".join(told.split())

    def drawn(self) -> str:
        """The agents and edges as a flowchart in Mermaid, which Markdown pages draw."""
        return mermaid(self.order, self.edges)

    # -- running -----------------------------------------------------------------------------------

    def run(
        self,
        query: Query,
        *,
        on_text: Callable[[str], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Run:
        """Answer one question. `on_text` gets the answer's words as they come.

        cancel: asked after every token, and every step of a canvas. Once it returns True the run
        ends with what there is, and its `finish` is "cancelled". An agent in another process, and a
        rollout of vectors, end their turn first.
        """
        self._check_items([query], [query])
        with cancelled_by(cancel):
            return self._batch([query], [query], on_text)[0]

    async def arun(self, query: Query, *, on_text: Callable[[str], None] | None = None) -> Run:
        """`run` in a separate thread, for asyncio programs. A task that is cancelled ends it."""
        over = Event()
        try:
            return await asyncio.to_thread(self.run, query, on_text=on_text, cancel=over.is_set)
        finally:
            over.set()

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
        queries = listed(queries)
        given = queries if elsewhere is None else listed(elsewhere)
        require(is_count(batch_size), "batch_size", batch_size, "above 0", PipelineError)
        if len(given) != len(queries):
            raise PipelineError(
                f"{len(queries)} queries need as many items elsewhere, got {len(given)}"
            )
        self._check_items(queries, given)
        if not all(one.spec.batches for one in self._participants.values()):
            batch_size = 1
        lengths = [
            (length_of(one), length_of(two)) for one, two in zip(given, queries, strict=True)
        ]
        order = sorted(range(len(queries)), key=lengths.__getitem__)
        batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
        runs: dict[int, Run] = {}
        for batch in track(batches, progress, disable=not progress):
            try:
                found = self._batch([queries[n] for n in batch], [given[n] for n in batch])
            except WorkerError as error:
                error.done = runs
                raise
            runs.update(zip(batch, found, strict=True))
        return [runs[n] for n in range(len(queries))]

    def _check_items(
        self, queries: Sequence[Query], given: Sequence[Query], *, writes: bool = True
    ) -> None:
        """Raise `UnknownName`, `EmptyPrompt` or `ContextTooLong` for what an agent cannot read.

        writes: whether the answering agent writes after its last turn.
        """
        last = self.order[-1]
        fields = {edge.sender: fields_of(given) for edge in self.edges} | {last: fields_of(queries)}
        readers = {n: self._participants[n] for n in self.order if n in fields}
        roles = {name: one.role for name, one in readers.items()}
        for about in fields.values():
            check_fields(about, roles, self._fields)
        for name, reader in readers.items() if queries else ():
            reader.role.check(fields[name])
            if isinstance(reader, Agent) and (name == last or self._reads(name)):
                reader.check_room(fields[name])
        if queries and any(edge.channel.by_length for edge in self.edges):
            foresee(self.run_turns, self._participants, fields, last, writes=writes)

    def _reads(self, name: str) -> bool:
        """Whether an agent reads its prompt for its messages. One that passes on words does not."""
        return any(edge.needs for edge in self.edges if edge.sender == name)

    @torch.no_grad()
    def incoming(self, queries: Sequence[Query]) -> list[Incoming]:
        """The messages that reach the answering agent for its last turn, B rows each.

        All other agents take all their turns, and nothing is answered. Raises `PipelineError` if
        agents do not run in this process.
        """
        _ = self.agents  # raises if they run elsewhere
        self._check_items(queries, queries, writes=False)
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
        if is_cancelled():
            ended = Turn(last, self.rounds, None, Usage(), finish="cancelled")
            return [Run("", (*row, ended)) for row in turns]
        result = self._participants[last].take_turn(
            answer_fields, received, [], answers=True, on_text=on_text
        )
        assert result.text is not None, "an answer is text"
        for row, turn in zip(turns, _turns(last, self.rounds, result), strict=True):
            row.append(turn)
        return [
            Run(words.strip(), tuple(row)) for words, row in zip(result.text, turns, strict=True)
        ]

    def _run_turns(
        self, answer_fields: Fields, sender_fields: Fields
    ) -> tuple[list[tuple[Edge, Any]], list[list[Turn]]]:
        """All turns but the last: what the answering agent receives, and the turns of each row."""
        last, log = self.order[-1], self.audit.run() if self.audit else None
        turns: list[list[Turn]] = [[] for _ in next(iter(answer_fields.values()))]

        def take(requests: Sequence[TurnRequest]) -> list[Sequence[Any]]:
            fields = [answer_fields if one.agent == last else sender_fields for one in requests]
            results = self._take(requests, fields)
            for request, result in zip(requests, results, strict=True):
                for edge, message in zip(request.outgoing, result.messages, strict=True):
                    if log is not None:
                        log.record(message, edge.channel, self.agents[edge.receiver], result.usage)
                for row, turn in zip(
                    turns, _turns(request.agent, request.round, result), strict=True
                ):
                    row.append(turn)
            return [result.messages for result in results]

        return self.run_turns(take), turns

    def _take(
        self, requests: Sequence[TurnRequest], fields: Sequence[Fields]
    ) -> list[TurnResult[Any]]:
        """Turns that do not depend on one another, those of this process in one batch."""
        found: dict[int, TurnResult[Any]] = {}
        here: dict[int, Steps[TurnResult[Any]]] = {}
        for n, (one, about) in enumerate(zip(requests, fields, strict=True)):
            agent = self._participants[one.agent]
            if isinstance(agent, Agent):
                here[n] = agent.turn(about, one.received, one.outgoing, step=one.step)
            else:
                found[n] = agent.take_turn(about, one.received, one.outgoing, step=one.step)
        rows = len(next(iter(fields[0].values())))
        for part in _parts(list(here.items()), max(1, _ROWS // rows)):
            results = together([steps for _, steps in part])
            found |= {n: result for (n, _), result in zip(part, results, strict=True)}
        return [found[n] for n in range(len(requests))]

    def run_turns(
        self, take: Callable[[Sequence[TurnRequest]], Sequence[Sequence[Any]]]
    ) -> list[tuple[Edge, Any]]:
        """Let `take` take all turns but the last, and return what the answering agent receives.

        take: takes turns that do not depend on one another, and makes for each of them one message
        for each edge of `outgoing`. None is not delivered.
        """
        inbox: dict[str, list[tuple[Edge, Any]]] = {name: [] for name in self._participants}
        step = 1
        for number in range(1, self.rounds + 1):
            for names in side_by_side(self.order, self.edges):
                if number == self.rounds and names[-1] == self.order[-1]:
                    names = names[:-1]
                requests: list[TurnRequest] = []
                for name in names:
                    outgoing = [edge for edge in self.edges if edge.sender == name]
                    if outgoing:
                        received, inbox[name] = inbox[name], []
                        requests.append(TurnRequest(name, number, step, received, outgoing))
                        step += 1
                if not requests or is_cancelled():
                    continue
                for request, messages in zip(requests, take(requests), strict=True):
                    for edge, message in zip(request.outgoing, messages, strict=True):
                        if message is not None:
                            inbox[edge.receiver].append((edge, message))
        return inbox[self.order[-1]]


def _parts(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (things[n : n + size] for n in range(0, len(things), size))


def _check_given(agents: Any, edges: Any, rounds: Any, answer: Any) -> None:
    """Raise `PipelineError` for what no pipeline can be made of."""
    for what, given, fits, allowed in (
        ("agents of a pipeline", agents, _listed(agents, _makes_agent), "a list of agents"),
        ("edges of a pipeline", edges, _listed(edges, _is_edge), "a list of edges"),
        ("rounds of a pipeline", rounds, is_count(rounds), "a whole number above 0"),
        ("answer of a pipeline", answer, answer is None or isinstance(answer, str), "a name"),
    ):
        require(fits, what, given, allowed, PipelineError)


def _listed(given: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(given, list | tuple) and all(map(kind, cast(Sequence[Any], given)))


def _makes_agent(given: Any) -> bool:
    return isinstance(given, Agent) or callable(given)


def _is_edge(given: Any) -> bool:
    return isinstance(given, Edge)


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
