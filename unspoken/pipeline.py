"""Agents and edges: who speaks to whom, over which channel, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

import torch
from rich.console import Console
from rich.progress import track

from unspoken.agents import Agent, Incoming
from unspoken.agents.roles import FIELDS
from unspoken.anchors import AnchorPool
from unspoken.channels import Channel
from unspoken.errors import PipelineError, unknown
from unspoken.types import TEXT, Need, Usage
from unspoken.wire import Message

__all__ = ["Edge", "Pipeline", "Query", "Run", "Turn", "fields_of"]

Query = str | Mapping[str, str]
"""A question, or the fields of an item: {"question": ..., "context": ...}."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`sender` speaks to `receiver` over `channel`."""

    sender: str
    receiver: str
    channel: Channel


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


class Pipeline:
    """Agents joined by channels; the last one answers.

    Agents take turns in an order that respects the edges. With `rounds` above 1 they take turns as
    listed, that many times, and edges may run in circles: a message that goes back arrives in the
    next round. Everything that cannot work is refused here, before any forward pass.

    >>> from unspoken.channels import TextChannel
    >>> from unspoken.testing import tiny_backbone
    >>> model = tiny_backbone()
    >>> planner, solver = Agent("planner", model), Agent("solver", model)
    >>> pair = Pipeline([planner, solver], [Edge("planner", "solver", TextChannel(limit=4))])
    >>> [turn.agent for turn in pair.run("how many?").turns]
    ['planner', 'solver']
    """

    def __init__(self, agents: Sequence[Agent], edges: Sequence[Edge] = (), *, rounds: int = 1):
        self.agents = {agent.name: agent for agent in agents}
        self.edges, self.rounds = tuple(edges), rounds
        if not agents or len(self.agents) < len(agents):
            raise PipelineError(
                f"a pipeline needs agents with different names, got {[a.name for a in agents]}"
            )
        if rounds < 1:
            raise PipelineError(f"a pipeline runs for at least 1 round, got rounds={rounds}")
        self._check_edges()
        self.order = self._order()

    @property
    def answerer(self) -> Agent:
        """The agent whose words are the answer: the last to take its turn."""
        return self.agents[self.order[-1]]

    def alone(self) -> Pipeline:
        """The answering agent without anybody's message."""
        return Pipeline([self.answerer])

    def served_by(self, pool: AnchorPool) -> Pipeline:
        """The same pipeline, its agents reading from one pool of caches."""
        agents = [agent.reading(pool.reader(agent.backbone)) for agent in self.agents.values()]
        return Pipeline(agents, self.edges, rounds=self.rounds)

    def _check_edges(self) -> None:
        for edge in self.edges:
            for name in (edge.sender, edge.receiver):
                if name not in self.agents:
                    raise unknown("agent", name, self.agents, "Edges join agents of the pipeline.")
            sender, receiver = self.agents[edge.sender], self.agents[edge.receiver]
            edge.channel.check(sender.backbone.spec, receiver.backbone.spec)
            if not (receiver.role.hears or edge.channel.in_front):
                raise PipelineError(
                    f"{edge.receiver!r} hears {edge.sender!r}, but its template has no "
                    "{messages}; put it where messages belong"
                )

    def _order(self) -> list[str]:
        if self.rounds > 1:
            return list(self.agents)
        graph = TopologicalSorter({name: () for name in self.agents})
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
        """Answer one question; `on_text` hears the answer's words as they come."""
        self._check_items([query], [query])
        return self._batch([query], [query], on_text)[0]

    async def arun(self, query: Query) -> Run:
        """`run` in a thread of its own, for asyncio programs."""
        return await asyncio.to_thread(self.run, query)

    def run_many(
        self,
        queries: Sequence[Query],
        *,
        batch_size: int = 16,
        elsewhere: Sequence[Query] | None = None,
        progress: str = "",
    ) -> list[Run]:
        """Answer many questions, batched by length; runs come back in the order of `queries`.

        elsewhere: items that everybody but the answering agent works on instead, so that each
        answer is given with another item's message. progress: the title of a progress bar.
        """
        given = queries if elsewhere is None else elsewhere
        if len(given) != len(queries) or batch_size < 1:
            raise PipelineError(
                f"{len(queries)} queries need as many items elsewhere, got {len(given)}, and a "
                f"batch size of at least 1, got {batch_size}"
            )
        self._check_items(queries, given)
        order = sorted(range(len(queries)), key=lambda n: (_length(given[n]), _length(queries[n])))
        batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
        runs: dict[int, Run] = {}
        told = Console(stderr=True)
        for batch in track(batches, progress, console=told, disable=not progress, transient=True):
            found = self._batch([queries[n] for n in batch], [given[n] for n in batch])
            runs.update(zip(batch, found, strict=True))
        return [runs[n] for n in range(len(queries))]

    def _check_items(self, queries: Sequence[Query], given: Sequence[Query]) -> None:
        """Raise `EmptyPrompt` or `UnknownName` for the items that an agent could not read."""
        own, others = fields_of(queries), fields_of(given)
        speakers = {self.order[-1], *(edge.sender for edge in self.edges)}
        for name in self.order if queries else ():
            if name in speakers:
                self.agents[name].role.check(own if name == self.order[-1] else others)

    @torch.no_grad()
    def _batch(
        self,
        queries: Sequence[Query],
        given: Sequence[Query],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Run]:
        last = self.order[-1]
        own, others = fields_of(queries), fields_of(given)
        mail: dict[str, list[Incoming]] = {name: [] for name in self.agents}
        turns: list[list[Turn]] = [[] for _ in queries]
        text: tuple[str, ...] | None = None
        for number in range(1, self.rounds + 1):
            for name in self.order:
                final = number == self.rounds and name == last
                out = [] if final else [e for e in self.edges if e.sender == name]
                if not (out or final):
                    continue
                incoming, mail[name] = mail[name], []
                needs = frozenset[Need]().union(*(edge.channel.needs for edge in out))
                thought, usage = self.agents[name].think(
                    own if name == last else others,
                    incoming,
                    needs=needs | {TEXT} if final else needs,
                    on_text=on_text if final else None,
                )
                text = thought.text
                sent: dict[int, Message] = {}
                for edge in out:
                    if id(edge.channel) not in sent:
                        sent[id(edge.channel)] = edge.channel.send(thought)
                    message = sent[id(edge.channel)]
                    mail[edge.receiver].append(Incoming(edge.channel, message))
                    usage = [
                        replace(cost, wire=cost.wire + size)
                        for cost, size in zip(usage, message.row_bytes(), strict=True)
                    ]
                for row, cost in enumerate(usage):
                    words = text[row] if text is not None else None
                    turns[row].append(Turn(name, number, words, cost))
        assert text is not None
        return [Run(answer.strip(), tuple(row)) for answer, row in zip(text, turns, strict=True)]


def _length(query: Query) -> int:
    return len(query) if isinstance(query, str) else sum(map(len, query.values()))


def fields_of(queries: Sequence[Query]) -> dict[str, tuple[str, ...]]:
    """What agents work on: the fields of B queries, side by side. Raises `UnknownName`."""
    rows = [{"question": query} if isinstance(query, str) else query for query in queries]
    for row in rows:
        if odd := set(row) - set(FIELDS):
            raise unknown("field", min(odd), FIELDS, "An item has a question and a context.")
    return {name: tuple(row.get(name, "") for row in rows) for name in FIELDS}
