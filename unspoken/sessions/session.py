"""A conversation with a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self
from uuid import uuid4
from weakref import finalize

from unspoken.agents import Agent
from unspoken.agents.framing import frame_of
from unspoken.anchors import AnchorPool
from unspoken.channels import Channel
from unspoken.errors import PipelineError, SessionError
from unspoken.events import Event, RunEnded, Tell, WordsLeftOut
from unspoken.protocols import Model, owned_by, unwrapped
from unspoken.runs import LeftOut, Query, Run, fields_of
from unspoken.sessions.conversing import ConversingAgent, Window
from unspoken.sessions.past import Exchange, Past, asked, read_by
from unspoken.sessions.storing import Kept, save
from unspoken.streaming import AsyncStream, Stream
from unspoken.team import Team
from unspoken.types import TEXT, Need

__all__ = ["Caches", "Session"]


class Caches:
    """Where the caches of a session and its forks are: in a pool, under the name of an owner.

    Without an owner they have a name of their own, and are dropped with the last session that uses
    them.
    """

    def __init__(self, pool: AnchorPool, owner: str | None = None) -> None:
        self.pool, self.owner = pool, owner or f"session {uuid4().hex}"
        if owner is None:
            finalize(self, pool.forget, self.owner)

    def wrap(self, model: Model) -> Model:
        """The model, which reads what it knows from its cache. One that has none reads all.

        An engine has a cache of its own, in which owners are apart.
        """
        keeps = "cache" in model.spec.gives and model.spec.even
        able = keeps and hasattr(type(unwrapped(model)), "fill")
        return self.pool.wrap(model, owner=self.owner) if able else owned_by(model, self.owner)


class Session:
    """Agents that go on from what they have read and written, run after run.

    Each agent reads its earlier exchanges before the new item: the words that count are those of
    the conversation, encoded anew, as a reader of the whole text would see them. What of that was
    read before comes from a cache. Caches are dropped when their pool is full, and words never
    are: they are read again, and the answer is the same. A run that fails or is cancelled leaves
    the session as it was. Make one with `Pipeline.session`.

    >>> from unspoken import Agent, Pipeline
    >>> from unspoken.testing import tiny_backbone
    >>> with Pipeline([Agent("solver", tiny_backbone())]).session() as talk:
    ...     first, second = talk.run("how many?"), talk.run("and now?")
    >>> second.usage.reused >= first.usage.read
    True
    """

    def __init__(
        self,
        team: Team,
        listening: Callable[[Tell], Tell],
        caches: Caches,
        window: Window,
        past: Mapping[str, Past],
        turns: Sequence[tuple[Query, str]] = (),
    ) -> None:
        window = replace(window, budget=caches.pool.budget // len(team.participants))
        self._team, self._listening, self._window = team, listening, window
        self._caches: Caches | None = caches
        self._agents = {name: _here(agent) for name, agent in team.participants.items()}
        _check(self._agents, team, window)
        self._models = {name: caches.wrap(agent.model) for name, agent in self._agents.items()}
        self._past = dict(past)
        self._turns = [(asked(query), answer) for query, answer in turns]
        self._busy = Lock()

    @classmethod
    def begin(
        cls,
        team: Team,
        listening: Callable[[Tell], Tell],
        caches: Caches,
        window: Window,
        history: Sequence[tuple[Query, str]],
    ) -> Session:
        """A session in which every agent has read these questions and answers."""
        for query, _ in history:
            team.check_items([query], [query])
        told = [(fields_of([query]), answer.strip()) for query, answer in history]
        past = {
            name: Past().after((), [Exchange(read_by(agent.role, f), said) for f, said in told])
            for name, agent in team.participants.items()
        }
        return cls(team, listening, caches, window, past, history)

    # -- runs --------------------------------------------------------------------------------------

    def run(self, query: Query) -> Run:
        """Ask the next question, see `Pipeline.run`. Raises `ContextTooLong`, `SessionError`."""
        found: list[Run] = []

        def note(event: Event) -> None:
            if isinstance(event, RunEnded):
                found.append(event.run)

        self.tell(query, note, words=False)
        return found[0]

    async def arun(self, query: Query) -> Run:
        """`run` for asyncio programs, see `Pipeline.arun`."""
        async with AsyncStream(partial(self.tell, query, words=False)) as events:
            async for _ in events:
                pass
        assert events.run is not None, "a stream that ends without an error has a run"
        return events.run

    def stream(self, query: Query) -> Stream:
        """The events of the next run as they happen."""
        self._team.check_items([query], [query])
        return Stream(partial(self.tell, query, words=True))

    def astream(self, query: Query) -> AsyncStream:
        """`stream` for asyncio programs."""
        self._team.check_items([query], [query])
        return AsyncStream(partial(self.tell, query, words=True))

    def tell(self, query: Query, tell: Tell, *, words: bool = True) -> None:
        """Ask the next question in this thread. `tell` gets the events as they happen.

        words: whether words are told as they are written. `RunEnded` is told when the session is
        ready for the next run.
        """
        self._team.check_items([query], [query])
        ended: list[RunEnded] = []
        left_out: dict[str, LeftOut] = {}

        def told(event: Event) -> None:
            ended.append(event) if isinstance(event, RunEnded) else tell(event)

        def leave_out(what: LeftOut) -> None:
            left_out[what.agent] = what
            tell(WordsLeftOut(what))

        with self._turn():
            agents = {name: self._conversing(name, leave_out) for name in self._agents}
            self._check_room(agents, query)
            team = replace(self._team, participants=agents)
            team.answer([query], [query], self._listening(told), words=words)
            run = replace(ended[0].run, left_out=tuple(left_out.values()))
            if not any(turn.finish == "cancelled" for turn in run.turns):
                self._past = {name: agent.after() for name, agent in agents.items()}
                self._turns.append((asked(query), run.answer))
        tell(RunEnded(run))

    @contextmanager
    def _turn(self) -> Generator[None]:
        if self._caches is None:
            raise SessionError("the session was closed; begin a new one, or load it from a file")
        if not self._busy.acquire(blocking=False):
            raise SessionError(
                "the session is in the middle of a run; read its events to the end or close them, "
                "or ask a fork of the session"
            )
        try:
            yield
        finally:
            self._busy.release()

    def _conversing(self, name: str, tell: Callable[[LeftOut], None]) -> ConversingAgent:
        agent, model = self._agents[name], self._models[name]
        return ConversingAgent(agent, model, self._past[name], self._window, tell)

    def _check_room(self, agents: Mapping[str, ConversingAgent], query: Query) -> None:
        """Raise `ContextTooLong` before any pass, if an agent has no room even without messages."""
        fields, last = fields_of([query]), self._team.order[-1]
        for name, agent in agents.items():
            needs = frozenset[Need]().union(
                *(edge.needs for edge in self._team.edges if edge.sender == name),
                {TEXT} if name == last else (),
            )
            if needs:
                agent.standing(fields, (), needs)

    # -- what it holds -----------------------------------------------------------------------------

    @property
    def answerer(self) -> str:
        """The name of the agent that answers."""
        return self._team.order[-1]

    @property
    def turns(self) -> tuple[tuple[Query, str], ...]:
        """What was asked and answered so far: all that a user sees of the conversation."""
        return tuple(self._turns)

    def past(self, agent: str) -> tuple[Exchange, ...]:
        """All that an agent has read and written."""
        return self._past[agent].exchanges

    def fork(self) -> Session:
        """A second session that goes on from here. Nothing is copied, and neither sees the other's
        further runs.
        """
        if self._caches is None:
            raise SessionError("the session was closed; begin a new one, or load it from a file")
        return Session(
            self._team, self._listening, self._caches, self._window, self._past, self._turns
        )

    def save(self, path: str | Path) -> None:
        """Write the words of all agents and their messages to a file, with a digest.

        Caches are not saved: what is loaded reads its words again.
        """
        save(Path(path), self._team, Kept(self._window.now, self._past, self._turns))

    def close(self) -> None:
        """End the session. Its caches are dropped, unless a fork uses them."""
        self._caches, self._models = None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session of {list(self._agents)}, {len(self._turns)} turns>"


def _here(agent: Any) -> Agent:
    if not isinstance(agent, Agent):
        raise PipelineError(
            f"agent {agent.name!r} runs in another process, and a session holds the caches of its "
            "agents; make the pipeline without an executor"
        )
    if type(agent).work is not Agent.work:
        raise PipelineError(
            f"agent {agent.name!r} is a {type(agent).__name__}, which works in a way of its own "
            "and reads no earlier turns; use a plain Agent in a session"
        )
    return agent


def _check(agents: Mapping[str, Agent], team: Team, window: Window) -> None:
    """Raise `PipelineError` or `TemplateError` for what cannot hold a conversation."""
    for agent in agents.values():
        frame_of(agent.model, agent.role, 1, window.now)
    for edge in team.edges:
        fuses = type(edge.channel).fuse is not Channel.fuse
        if edge.channel.in_front or fuses:
            how = "is fused into the whole cache" if fuses else "comes before the whole prompt"
            raise PipelineError(
                f"a message over {edge.channel.name!r} from {edge.sender!r} {how}, so it has no "
                "place in a conversation; use a channel whose messages are part of the prompt, "
                "such as 'text' or 'embedding'"
            )
