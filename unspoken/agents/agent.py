"""An agent: a model with a name, a role and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from hashlib import sha256
from textwrap import shorten
from time import perf_counter
from typing import Any

from unspoken.agents.edges import Edge
from unspoken.agents.framing import Frame, frame_of
from unspoken.agents.roles import Fields, Role
from unspoken.agents.room import check_room
from unspoken.agents.together import Steps, WriteRequest, together
from unspoken.agents.turns import Size, TurnResult
from unspoken.cancelling import Cancelled
from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, PipelineError, check_unicode, require
from unspoken.projectors import FreeVectors
from unspoken.protocols import Model, rolls_out
from unspoken.types import (
    TEXT,
    Need,
    OnText,
    Prompt,
    Read,
    Rollout,
    Segment,
    Settings,
    Spec,
    Text,
    Usage,
    Words,
)
from unspoken.wire import Message

__all__ = ["Agent", "Incoming", "task_ids"]

_SHOWN = 120  # characters of a role that a header shows


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message on its way to an agent, and the channel that takes it in."""

    channel: Channel
    message: Message


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Agent:
    """Reads its prompt and its messages, then computes what is needed: words, states, a cache.

    model: a model, or the name or folder of one, which is loaded. role: a `Role`, or words that
    become its instructions. soft: trained vectors after the instructions, which make it a tuned
    reader. An agent never changes. `dataclasses.replace` makes another one.

    >>> from unspoken.testing import tiny_backbone
    >>> solver = Agent("solver", tiny_backbone(), role="Answer briefly.")
    >>> solver.role.instructions
    'Answer briefly.'
    >>> replace(solver, settings=Settings(max_tokens=4)).role is solver.role
    True
    """

    name: str
    model: Model
    role: Role
    settings: Settings
    soft: FreeVectors | None

    def __init__(
        self,
        name: str,
        model: Model | str,
        *,
        role: Role | str = "",
        settings: Settings = Settings(),
        soft: FreeVectors | None = None,
    ) -> None:
        given: Any = name
        fits = isinstance(given, str) and bool(given.strip())
        require(fits, "the name of an agent", given, "words that are not empty", PipelineError)
        check_unicode("the name of an agent", name, PipelineError)
        if isinstance(model, str):
            from unspoken.backbone.load import load_model  # imports transformers

            model = load_model(model)
        role = Role(instructions=role) if isinstance(role, str) else role
        checks: list[tuple[str, Any, Callable[[Any], bool], str]] = [
            ("model", model, _reads, "a model, or a name of one"),
            ("role", role, lambda one: isinstance(one, Role), "a Role, or instructions"),
            ("settings", settings, lambda one: isinstance(one, Settings), "Settings"),
        ]
        for what, given, kind, allowed in checks:
            require(kind(given), f"{what} of agent {name!r}", given, allowed, PipelineError)
        vars(self).update(name=name, model=model, role=role, settings=settings, soft=soft)

    def __repr__(self) -> str:
        known = [f"{self.name!r}", self.spec.name]
        if self.role.instructions:
            known.append(f"role={shorten(self.role.instructions, 60)!r}")
        known += [] if self.settings == Settings() else [repr(self.settings)]
        known += [] if self.soft is None else ["soft=..."]
        return f"Agent({', '.join(known)})"

    @property
    def spec(self) -> Spec:
        return self.model.spec

    @cached_property
    def frame(self) -> Frame:
        """The words before and after an item. Raises `TemplateError` if a template has no place."""
        return frame_of(self.model, self.role)

    def prompt(self, fields: Fields, incoming: Sequence[Incoming] = ()) -> Prompt:
        """Lay out what the agent reads: instructions, item, messages, the cue to answer."""
        return self.framed(self.frame, fields, incoming)

    def framed(self, frame: Frame, fields: Fields, incoming: Sequence[Incoming] = ()) -> Prompt:
        """Lay out an item and messages in a frame."""
        self.role.check(fields)
        before, after = self.role.texts(fields)
        batch = len(next(iter(fields.values())))
        for arrival in incoming:
            self._check(arrival, batch)
        prompt = Prompt(
            (*before, *after) or (Text(("",) * batch),),
            slot=len(before),
            reuse=self.role.reuse,
            candidates=self.role.candidates,
            bos=not frame.chat,
        )
        front = self.front(frame, batch)
        prompt = reduce(Prompt.front, front, prompt)
        for arrival in incoming:
            prompt = self._place(arrival, prompt)
        return frame.around(prompt, front)

    def front(self, frame: Frame, batch: int) -> list[Segment]:
        """What comes before an item: trained vectors, and the opening of the frame."""
        front: list[Segment] = [] if self.soft is None else [self.soft(batch)]
        if frame.opening:
            front.append(Text((frame.opening,) * batch, shared=True, frame=True))
        return front

    def check_room(self, fields: Fields) -> None:
        """Raise `ContextTooLong` for items that are too long even without messages."""
        check_room(self.model, self.role, fields, self.prompt(fields))

    def _check(self, arrival: Incoming, batch: int) -> None:
        """Refuse a message for another model or number of items, before anything is read."""
        message = arrival.message
        arrival.channel.accept(message, self.model.spec)
        if message.batch != batch:
            raise IncompatibleModels(
                f"the message from {message.header.sender!r} has {message.batch} rows, but "
                f"{self.name!r} works on {batch} items; send one row for each"
            )

    def _place(self, arrival: Incoming, prompt: Prompt) -> Prompt:
        channel, message = arrival.channel, arrival.message
        if channel.in_front:
            return channel.write(message, prompt)
        before, after = self.role.around(message.header.sender, prompt.batch)
        opened = reduce(Prompt.insert, before, prompt)
        written = channel.write(message, opened)
        if written is opened:  # the channel fuses, so the prompt shows no message
            return prompt
        return reduce(Prompt.insert, after, written)

    def read(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
    ) -> Read:
        """Read the prompt with its messages. Training and use make the same call."""
        return self.read_prompt(self.prompt(fields, incoming), incoming, needs=needs)

    def read_prompt(
        self,
        prompt: Prompt,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
    ) -> Read:
        """Read what `prompt` gave for these messages, or a shorter form of it."""
        read = self.model.read(prompt, needs=needs)
        for arrival in incoming if read.found else ():
            read = replace(read, found=arrival.channel.fuse(arrival.message, read.context))
        return read

    def compute(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
        on_text: OnText | None = None,
    ) -> tuple[SenderState, list[Usage]]:
        """Take a turn over B items: what the agent holds after it, and the cost of each item."""
        (found,) = together([self.work(fields, incoming, needs=needs, on_text=on_text)])
        return found

    def work(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
        on_text: OnText | None = None,
    ) -> Steps[tuple[SenderState, list[Usage]]]:
        """`compute` in steps, which stops where words are to be written.

        Once the run is cancelled it ends with what there is, and `finish` says so.
        """
        start = perf_counter()
        state = SenderState(
            agent=self.name,
            model=self.model,
            given=self.role.given(fields),
            opening=self.frame.opening,
            task=task_ids(fields),
            role=self.role.instructions.strip().partition("\n")[0][:_SHOWN],
        )
        if not needs:  # it is silent
            return state, [Usage()] * len(state.given)
        done = _Done(len(state.given))
        try:
            done.read = read = self.read(fields, incoming, needs=needs)
            done.seconds, most = perf_counter() - start, self.most_tokens(needs)
            if most:
                settings = self.settings_for(fields, most)
                done.words, took = yield WriteRequest(self.model, read.context, settings, on_text)
                done.seconds += took
            start = perf_counter()
            done.rollouts = self._rollouts(read, needs)
            done.seconds += perf_counter() - start
        except Cancelled as end:
            done.tokens, done.passes = end.tokens, end.passes
            return done.state(state, cancelled=True), done.usage()
        return done.state(state), done.usage()

    def settings_for(self, fields: Fields, most: int | None = None) -> Settings:
        """How the agent writes about these items: to `most` tokens, each with a seed of its own."""
        settings, seed = self.settings, self.settings.seed
        if settings.temperature > 0 and isinstance(seed, int):
            seed = tuple(_seed(seed, self.name, task) for task in task_ids(fields))
        return replace(settings, max_tokens=most or settings.max_tokens, seed=seed)

    def _rollouts(self, read: Read, needs: frozenset[Need]) -> dict[Need, Rollout]:
        return {
            need: rolls_out(self.model, "a rollout is needed").roll_out(
                read.context, need, self.settings
            )
            for need in needs
            if need.kind == "rollout"
        }

    def most_tokens(self, needs: frozenset[Need]) -> int:
        """The most tokens that the agent has to write for its channels, 0 for none."""
        limits = [need.limit for need in needs if need.kind == "text"]
        if self.spec.states == "written" and any(need.kind == "hidden" for need in needs):
            limits.append(None)  # its states are those of a whole canvas
        whole = self.settings.max_tokens
        return min(whole, max((limit or whole for limit in limits), default=0))

    def take_turn(
        self,
        fields: Fields,
        received: Sequence[tuple[Edge, Message]],
        outgoing: Sequence[Edge],
        *,
        answers: bool = False,
        step: int = 0,
        on_text: OnText | None = None,
    ) -> TurnResult[Message]:
        """Take a turn as a `Participant`: compute what the edges need, and send over each edge."""
        (found,) = together(
            [self.turn(fields, received, outgoing, answers=answers, step=step, on_text=on_text)]
        )
        return found

    def turn(
        self,
        fields: Fields,
        received: Sequence[tuple[Edge, Message]],
        outgoing: Sequence[Edge],
        *,
        answers: bool = False,
        step: int = 0,
        on_text: OnText | None = None,
    ) -> Steps[TurnResult[Message]]:
        """`take_turn` in steps, which stops where words are to be written."""
        needs = frozenset[Need]().union(*(edge.needs for edge in outgoing))
        state, usage = yield from self.work(
            fields,
            [Incoming(edge.channel, message) for edge, message in received],
            needs=needs | {TEXT} if answers else needs,
            on_text=on_text,
        )
        state = replace(state, step=step)
        different = {} if "cancelled" in state.finish else {edge.key: edge for edge in outgoing}
        sent = {key: edge.send(state) for key, edge in different.items()}
        messages = tuple(sent[edge.key] for edge in outgoing if sent)
        for message in messages:
            each = zip(usage, message.row_bytes(), strict=True)
            usage = [replace(cost, wire=cost.wire + n) for cost, n in each]
        sizes = tuple(self._size(message) for message in messages)
        return TurnResult(state.text, messages, tuple(usage), state.reasoning, state.finish, sizes)

    def _size(self, message: Message) -> Size:
        payload = message.payload
        if isinstance(payload, Text):
            return Size(message.nbytes, max(len(self.model.tokens(row)) for row in payload.words))
        return Size(message.nbytes, int(payload.mask.sum(1).max()))


def _reads(given: object) -> bool:
    return hasattr(type(given), "read")


@dataclass(slots=True)
class _Done:
    """What of a turn is done.

    tokens and passes: those of each row that were read, and in how many, if that was not all.
    """

    batch: int
    read: Read | None = None
    words: Words | None = None
    rollouts: dict[Need, Rollout] = field(default_factory=dict[Need, Rollout])
    tokens: tuple[int, ...] = ()
    passes: int = 0
    seconds: float = 0.0

    def state(self, state: SenderState, *, cancelled: bool = False) -> SenderState:
        """What the agent holds."""
        read, words = self.read, self.words
        if words is not None:
            state = replace(state, text=words.words, reasoning=words.reasoning, finish=words.finish)
        if cancelled:
            text = state.text or ("",) * self.batch
            state = replace(state, text=text, finish=("cancelled",) * self.batch)
        if read is None:
            return state
        hidden = words.hidden if words and words.hidden else read.hidden
        return replace(state, hidden=hidden, cached=read.cached, rollouts=self.rollouts)

    def usage(self) -> list[Usage]:
        """What each item has cost."""
        read, words, none = self.read, self.words, (0,) * self.batch
        passes = sum(rollout.passes for rollout in self.rollouts.values())
        passes += (read.passes if read else self.passes) + (words.passes if words else 0)
        wait, each = words.wait if words else 0.0, self.seconds / self.batch
        tokens = read.tokens if read else self.tokens or none
        reused = tuple(row.reused for row in read.served) if read and read.served else none
        written = words.tokens if words else none
        return [
            Usage(r, w, passes, seconds=each, wait=wait, reused=known)
            for r, w, known in zip(tokens, written, reused, strict=True)
        ]


def _seed(seed: int, agent: str, task: str) -> int:
    """The seed of an agent's generator for one item, of 63 bits."""
    made = sha256(f"{seed}\n{agent}\n{task}".encode()).digest()
    return int.from_bytes(made[:8], "big") >> 1


def task_ids(fields: Fields) -> tuple[str, ...]:
    """The id of each item in a header: 16 hex digits of its fields' SHA-256.

    Equal items have equal ids, so a receiver and a log can tell what a message is about.
    """
    usual = [fields[name] for name in ("context", "question") if name in fields]
    more = sorted(fields.keys() - {"context", "question"})
    found: list[str] = []
    for n in range(len(next(iter(fields.values())))):
        row: list[Any] = [values[n] for values in usual]
        row += [(name, fields[name][n]) for name in more if fields[name][n]]
        found.append(sha256(json.dumps(row).encode()).hexdigest()[:16])
    return tuple(found)
