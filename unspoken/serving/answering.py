"""How a pipeline answers a request: in the thread that calls, with what a pool knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from unspoken.agents import Agent
from unspoken.anchors import AnchorPool
from unspoken.backbone.diffusion import Frame, watching
from unspoken.errors import PipelineError, TemplateError
from unspoken.events import Event, MessageSent, RunEnded, TurnEnded, TurnStarted, WordsWritten
from unspoken.pipeline import Pipeline
from unspoken.runs import Run
from unspoken.serving.protocol import Request
from unspoken.serving.refusals import Refusal
from unspoken.serving.shown import canvas_of, frame_of, reading_of, sent_of, summary_of
from unspoken.serving.visible import Visible
from unspoken.sessions import Keep, keep_of
from unspoken.types import Settings

__all__ = ["Answer", "Asked", "Begun", "Changes", "ServedPipeline", "Told"]


@dataclass(frozen=True, slots=True)
class Begun:
    """The request was looked at, and an agent takes the first turn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The end. sent: bytes by channel. unspoken: turns, messages, costs, if they are shown."""

    run: Run
    sent: Mapping[str, int]
    unspoken: dict[str, Any] | None = None


Told = Begun | str | dict[str, Any] | Answer
"""What is told of a run: words of the answer, and a dictionary for what else happens in it."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a request changes in how the answer is written. None leaves what the recipe says."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: Request) -> Changes:
        return cls(asked.most, asked.temperature, asked.top_p, asked.seed, asked.stops)

    def of_settings(self, settings: Settings) -> Settings:
        """The settings, changed. Stop strings are added to those of the recipe."""
        names = ("max_tokens", "temperature", "top_p", "seed")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(settings, stop=(*settings.stop, *self.stop), **given)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with all that belongs to it.

    shows: whether turns and messages are told. reads: with what receivers make of messages.
    """

    talk: Visible
    changes: Changes = Changes()
    fields: Mapping[str, Any] | None = None
    shows: bool = False
    reads: bool = False

    def query(self, question: str) -> dict[str, Any]:
        return {"question": question, **(self.fields or {})}


class ServedPipeline:
    """A pipeline that answers as a model. keep and window: as `Pipeline.session` takes them.

    What agents read of a conversation is what its user sees: the system words, the questions, the
    answers. So an answer is the same whether the server knows the conversation or not. What is
    known is in a pool and is not read again. Raises `PipelineError` unless the agents run in this
    process.

    talks: whether it takes earlier turns. A pipeline with a channel, or a chat template, that has
    no place for them answers single questions.
    """

    def __init__(
        self, pipeline: Pipeline, *, keep: str | Keep | None = None, window: int | None = None
    ) -> None:
        self.pipeline, self.keep, self.window = pipeline, keep_of(keep), window
        self.agents = pipeline.agents
        self.talks = False
        with suppress(PipelineError, TemplateError):
            pipeline.session().close()
            self.talks = True

    @property
    def described(self) -> dict[str, Any]:
        """What it is made of, as JSON: the agents in the order of their turns, and their edges.

        The last agent answers. fields: what they read besides the question.
        """
        order, edges = self.pipeline.order, self.pipeline.edges
        read = [field for name in order for field in self.agents[name].role.fields]
        return {
            "agents": [
                {"name": name, "model": PurePath(self.agents[name].spec.name).name}
                for name in order
            ],
            "edges": [
                {"from": edge.sender, "to": edge.receiver, "channel": edge.channel.name}
                for edge in edges
            ],
            "rounds": self.pipeline.rounds,
            "fields": [field for field in dict.fromkeys(read) if field != "question"],
            "talks": self.talks,
        }

    def check(self, talk: Visible) -> None:
        """Raise `Refusal` for earlier turns that it does not take."""
        if talk.turns and not self.talks:
            raise Refusal(
                400,
                "the agents of this model have no place for earlier turns, so it answers single "
                "questions; leave out all but the last",
                param="messages",
            )

    def answer(
        self, asked: Asked, pool: AnchorPool, owner: str, tell: Callable[[Told], None]
    ) -> None:
        """Answer a question. Raises what keeps it from being answered."""
        pipeline, teller = self._adapted(asked), _Teller(self.pipeline, asked, tell)
        with watching(teller.show_canvas) if asked.shows else nullcontext():
            self._run(asked, pipeline, pool, owner, teller)

    def _run(
        self, asked: Asked, pipeline: Pipeline, pool: AnchorPool, owner: str, teller: _Teller
    ) -> None:
        query = asked.query(asked.talk.question)
        if not self.talks:
            with pipeline.stream(query) as events:
                for event in events:
                    teller(event)
            return
        history = [(asked.query(question), answer) for question, answer in asked.talk.turns]
        talk = pipeline.session(
            keep=self.keep, window=self.window, history=history, pool=pool, owner=owner
        )
        with talk:
            talk.tell(query, teller)

    def _adapted(self, asked: Asked) -> Pipeline:
        """The pipeline, told the system words of a conversation, its answer written as asked."""
        own, last = self.pipeline, self.pipeline.order[-1]
        agents = {name: self.agents[name] for name in own.order}
        settings = asked.changes.of_settings(agents[last].settings)
        agents[last] = replace(agents[last], settings=settings)
        made = [_instructed(agent, asked.talk.system) for agent in agents.values()]
        return Pipeline(made, own.edges, rounds=own.rounds, until=own.until, audit=own.audit)


def _instructed(agent: Agent, system: str) -> Agent:
    """An agent with more instructions after its own."""
    if not system:
        return agent
    chat = agent.role.chat and agent.spec.chats
    words = "\n\n".join(filter(None, (agent.role.instructions, system)))
    words = words if chat else f"{words}\n\n"
    return replace(agent, role=replace(agent.role, instructions=words))


class _Teller:
    """Turns the events of a run into what is told of it. It is called in the run's thread.

    What is told of the answer, piece by piece, is the answer, without white space at its ends.
    """

    def __init__(self, pipeline: Pipeline, asked: Asked, tell: Callable[[Told], None]) -> None:
        self.answerer, self.asked, self.tell = pipeline.order[-1], asked, tell
        self.agents = pipeline.agents
        # A rule may end any round, so nobody knows which turn is the last before it is over.
        self.last = None if pipeline.until else pipeline.rounds
        self.begun = False
        self.told: str = ""
        self.space: str = ""
        self.messages: list[dict[str, Any]] = []
        self.turns: dict[int, TurnStarted] = {}  # those in progress, by their step

    def __call__(self, event: Event) -> None:
        if not self.begun:
            self.begun = True
            self.tell(Begun())
        if isinstance(event, TurnStarted):
            self.turns[event.step] = event
        elif isinstance(event, TurnEnded):
            self.turns.pop(event.step)
        match event:
            case WordsWritten() if (event.agent, event.round) == (self.answerer, self.last):
                self._answer(event.words)
            case RunEnded():
                self._end(event.run)
            case _:
                self._show(event)

    def show_canvas(self, frame: Frame) -> None:
        """Tell the state of a canvas, as part of the turn that it belongs to."""
        for turn in list(self.turns.values()):
            if self.agents[turn.agent].spec.name == frame.model:
                self.tell(canvas_of(turn, frame))
                return

    def _answer(self, words: str) -> None:
        words = self.space + words if self.told else words.lstrip()
        kept = words.rstrip()
        self.space = words[len(kept) :]
        if kept:
            self.told += kept
            self.tell(kept)

    def _show(self, event: Event) -> None:
        frame = self._sent(event) if isinstance(event, MessageSent) else frame_of(event)
        if self.asked.shows and frame is not None:
            self.tell(frame)

    def _sent(self, event: MessageSent) -> dict[str, Any]:
        sent = sent_of(event)
        if self.asked.reads:
            sent["reading"] = reading_of(event, self.agents[event.receiver].model)
        self.messages.append(sent)
        return {"type": "message", **sent}

    def _end(self, run: Run) -> None:
        if rest := run.answer.removeprefix(self.told):
            self.tell(rest)
        sent = Counter[str]()
        for one in self.messages:
            sent[one["channel"]] += one["bytes"]
        self.tell(Answer(run, sent, summary_of(run, self.messages) if self.asked.shows else None))
