"""Agents and edges: who sends to whom, over which channel, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from unspoken.agents import Agent, Edge, Incoming, Participant
from unspoken.anchors import AnchorPool
from unspoken.audit import Audit
from unspoken.channels.base import check_abilities
from unspoken.errors import PipelineError, WorkerError, require, unknown
from unspoken.events import Event, RunEnded, Tell
from unspoken.executors import Executor, Here, Make
from unspoken.runs import Query, Run, Turn, TurnRequest, fields_of, length_of, listed
from unspoken.sessions import Caches, Keep, Session, Window, keep_of, load
from unspoken.streaming import AsyncStream, Stream
from unspoken.team import Take, Team
from unspoken.terminal import track
from unspoken.types import Settings, is_count
from unspoken.until import Phrase, Until
from unspoken.wiring import check_given, check_wiring, edges_to, mermaid, turn_order

__all__ = ["Edge", "Pipeline", "Query", "Run", "Turn", "TurnRequest", "edges_to", "fields_of"]


class Pipeline:
    """Agents joined by channels. The last one listed answers, or the one that `answer` names.

    Agents take turns in an order that respects the edges. Those of which none sends to another
    write in one batch if they share a model. With `rounds` above 1 agents take turns as listed,
    that many times, and edges may run in circles: a message that goes back arrives in the next
    round. What cannot work is refused here, before any forward pass.

    until: a rule that ends the rounds earlier, see `unspoken.until`: a function of the run so far,
    or a phrase that an agent writes. It is asked after every turn. The answering agent then takes
    its turn, unless it was its own words that fulfilled the rule: those are the answer.
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
        until: Until | str | None = None,
        answer: str | None = None,
        executor: Executor = Here(),
        audit: Audit | str | Path | None = None,
    ) -> None:
        until = Phrase(until) if isinstance(until, str) else until
        check_given(agents, edges, rounds, until, answer)
        self.audit = Audit(audit) if isinstance(audit, str | Path) else audit
        self.edges, self.rounds, self.until = tuple(edges), rounds, until
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
            whose = getattr(until, "agent", None)
            if whose is not None and whose not in names:
                raise unknown("agent", whose, names, "`until` looks at what one of them writes.")
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
        return self._asked_as_whole(self._like(agents, kept))

    def _asked_as_whole(self, part: Pipeline) -> Pipeline:
        """A part of this pipeline, which takes the same items. Fields for the rest stay unread."""
        part._fields |= self._fields
        return part

    def with_answer_settings(self, settings: Settings) -> Pipeline:
        """The same pipeline, its answering agent writing by other settings."""
        agents = {**self._in_order(), self.order[-1]: replace(self.answerer, settings=settings)}
        return self._like(list(agents.values()), self.edges)

    def served_by(self, pool: AnchorPool, *, owner: str = "") -> Pipeline:
        """The same pipeline, its agents reading from one pool of caches.

        owner: pipelines of different owners share nothing, so that neither answers nor reuse tell
        one what the other has asked.
        """
        agents = [
            replace(agent, model=pool.wrap(agent.model, owner=owner))
            for agent in self._in_order().values()
        ]
        return self._like(agents, self.edges)

    def _like(self, agents: Sequence[Agent], edges: Sequence[Edge]) -> Pipeline:
        """A pipeline that runs and is audited as this one is. The last of the agents answers."""
        return Pipeline(agents, edges, rounds=self.rounds, until=self.until, audit=self.audit)

    def _in_order(self) -> dict[str, Agent]:
        """The agents, the answering one last."""
        agents = self.agents
        return {name: agents[name] for name in self.order}

    # -- conversations -----------------------------------------------------------------------------

    def session(
        self,
        *,
        keep: str | Keep | None = None,
        window: int | None = None,
        history: Sequence[tuple[Query, str]] = (),
        pool: AnchorPool | None = None,
        owner: str | None = None,
    ) -> Session:
        """A conversation, in which agents go on from what they have read and written.

        keep: what happens when an agent has no room for all of it in its window, or its pool none
        for the cache: `recent` leaves the oldest exchanges out, see `Recent`, and `distilled` notes
        them, see `Distilled`. None raises `ContextTooLong`, and reads again what has no cache.
        window: the most positions that an agent reads and writes in one turn, by default what its
        model can take. history: questions with their answers, which all agents read as what was
        said before. pool: where caches are, by default one for all sessions of this pipeline; its
        budget is that of all sessions in it. owner: sessions of one owner read what another has
        read. By default each has caches of its own. Raises `PipelineError` for messages that have
        no place in a conversation, and `MissingExtra` without the library that notes are found
        with.
        """
        whole = Window(datetime.now(), _window(window), keep_of(keep))
        caches = Caches(self._pool(pool), owner)
        return Session.begin(self._team, self._listening, caches, whole, history)

    def load_session(
        self,
        path: str | Path,
        *,
        keep: str | Keep | None = None,
        window: int | None = None,
        pool: AnchorPool | None = None,
    ) -> Session:
        """A conversation that was saved, with its own date. Raises `SessionError` and `Damaged`."""
        limit, chosen = _window(window), keep_of(keep)
        began, past, turns = load(Path(path), self._team)
        caches, whole = Caches(self._pool(pool)), Window(began, limit, chosen)
        return Session(self._team, self._listening, caches, whole, past, turns)

    def _pool(self, given: AnchorPool | None) -> AnchorPool:
        fits = given is None or isinstance(given, AnchorPool)  # pyright: ignore
        require(fits, "the pool of a session", given, "an AnchorPool", PipelineError)
        return self._talks if given is None else given

    @cached_property
    def _talks(self) -> AnchorPool:
        """The caches of all sessions."""
        return AnchorPool("exact")

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

    def run(self, query: Query) -> Run:
        """Answer one question."""
        (found,) = self._answer([query], [query])
        return found

    async def arun(self, query: Query) -> Run:
        """`run` in a separate thread, for asyncio programs.

        A task that is cancelled ends the run, and goes on when the pass in progress is over.
        """
        self._team.check_items([query], [query])
        async with AsyncStream(partial(self._tell, [query], [query], words=False)) as events:
            async for _ in events:
                pass
        assert events.run is not None, "a stream that ends without an error has a run"
        return events.run

    def stream(self, query: Query) -> Stream:
        """The events of a run as they happen: turns, words, messages, the answer."""
        self._team.check_items([query], [query])
        return Stream(partial(self._tell, [query], [query], words=True))

    def astream(self, query: Query) -> AsyncStream:
        """`stream` for asyncio programs."""
        self._team.check_items([query], [query])
        return AsyncStream(partial(self._tell, [query], [query], words=True))

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
        is given with another item's message. progress: the title of a progress bar. With `until`
        each question is asked alone. If the worker of an agent is lost, its `WorkerError` has the
        runs of the batches before as `done`.
        """
        queries = listed(queries)
        given = queries if elsewhere is None else listed(elsewhere)
        require(is_count(batch_size), "batch_size", batch_size, "above 0", PipelineError)
        if len(given) != len(queries):
            raise PipelineError(
                f"{len(queries)} queries need as many items elsewhere, got {len(given)}"
            )
        self._team.check_items(queries, given)
        if self.until or not all(one.spec.batches for one in self._participants.values()):
            batch_size = 1
        lengths = [
            (length_of(one), length_of(two)) for one, two in zip(given, queries, strict=True)
        ]
        order = sorted(range(len(queries)), key=lengths.__getitem__)
        batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
        runs: dict[int, Run] = {}
        for batch in track(batches, progress, disable=not progress):
            try:
                found = self._answer([queries[n] for n in batch], [given[n] for n in batch])
            except WorkerError as error:
                error.done = runs
                raise
            runs.update(zip(batch, found, strict=True))
        return [runs[n] for n in range(len(queries))]

    def incoming(self, queries: Sequence[Query]) -> list[Incoming]:
        """The messages that reach the answering agent for its last turn, B rows each.

        All other agents take all their turns, and nothing is answered. Raises `PipelineError` if
        agents do not run in this process.
        """
        _ = self.agents  # raises if they run elsewhere
        self._team.check_items(queries, queries, writes=False)
        if self.until and len(queries) > 1:
            raise PipelineError(
                f"rounds that `until` ends are those of one item, and {len(queries)} were given; "
                "give one at a time"
            )
        received = self._team.incoming(queries, self._listening(lambda _: None))
        return [Incoming(edge.channel, message) for edge, message in received]

    def run_turns(self, take: Take) -> list[tuple[Edge, Any]]:
        """Let `take` take all turns but the last, and return what the answering agent receives."""
        if self.until:
            raise PipelineError(
                "every turn of every round is asked for, and `until` may end the rounds before; "
                "make the pipeline without it"
            )
        return self._team.run_turns(take, lambda: False)

    def _answer(self, queries: Sequence[Query], given: Sequence[Query]) -> list[Run]:
        runs: dict[int, Run] = {}

        def note(event: Event) -> None:
            if isinstance(event, RunEnded):
                runs[event.item] = event.run

        self._team.check_items(queries, given)
        self._tell(queries, given, note, words=False)
        return [runs[n] for n in range(len(queries))]

    def _tell(
        self, queries: Sequence[Query], given: Sequence[Query], tell: Tell, *, words: bool
    ) -> None:
        self._team.answer(queries, given, self._listening(tell), words=words)

    def _listening(self, tell: Tell) -> Tell:
        """The audit and somebody else, who are told the events of one run."""
        if self.audit is None:
            return tell
        log = self.audit.run(self.agents)

        def both(event: Event) -> None:
            log(event)
            tell(event)

        return both

    @property
    def _team(self) -> Team:
        known = frozenset(self._fields)
        return Team(
            self._participants, self.edges, tuple(self.order), self.rounds, self.until, known
        )


def _window(given: Any) -> int | None:
    fits = given is None or is_count(given)
    require(fits, "the window of a session", given, "a whole number above 0", PipelineError)
    return given
