"""An agent: a model with a name, a role and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from unspoken.agents.turns import TurnResult
from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, PipelineError, check_unicode, require
from unspoken.projectors import FreeVectors
from unspoken.protocols import Model, rolls_out
from unspoken.types import (
    TEXT,
    Need,
    Prompt,
    Read,
    Rollout,
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
        frame = self.frame
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
        front = [] if self.soft is None else [self.soft(batch)]
        if frame.opening:
            front.append(Text((frame.opening,) * batch, shared=True, frame=True))
        prompt = reduce(Prompt.front, front, prompt)
        for arrival in incoming:
            prompt = self._place(arrival, prompt)
        return frame.around(prompt, front)

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
        on_text: Callable[[str], None] | None = None,
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
        on_text: Callable[[str], None] | None = None,
    ) -> Steps[tuple[SenderState, list[Usage]]]:
        """`compute` in steps, which stops where words are to be written."""
        start = perf_counter()
        state = SenderState(
            agent=self.name,
            model=self.model,
            given=self.role.given(fields),
            opening=self.frame.opening,
            task=task_ids(fields),
            role=self.role.instructions.strip().partition("\n")[0][:_SHOWN],
        )
        batch = len(state.given)
        if not needs and not on_text:  # it is silent
            return state, [Usage()] * batch
        read = self.read(fields, incoming, needs=needs)
        seconds, wait, passes = perf_counter() - start, 0.0, read.passes
        written, hidden, most = [0] * batch, read.hidden, self.most_tokens(needs)
        if most:
            settings = self.settings_for(fields, most)
            words, took = yield WriteRequest(self.model, read.context, settings, on_text)
            wait, seconds = seconds + words.wait, seconds + took
            written, passes = list(words.tokens), passes + words.passes
            state, hidden = _wrote(state, words), hidden or words.hidden
        start = perf_counter()
        rollouts = self._rollouts(read, needs)
        passes += sum(rollout.passes for rollout in rollouts.values())
        each = (seconds + perf_counter() - start) / batch
        reused = [row.reused for row in read.served] or [0] * batch
        usage = [
            Usage(r, w, passes, seconds=each, wait=wait, reused=known)
            for r, w, known in zip(read.tokens, written, reused, strict=True)
        ]
        return replace(state, hidden=hidden, cached=read.cached, rollouts=rollouts), usage

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
        on_text: Callable[[str], None] | None = None,
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
        on_text: Callable[[str], None] | None = None,
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
        different = {edge.key: edge for edge in outgoing}
        sent = {key: edge.send(state) for key, edge in different.items()}
        messages = tuple(sent[edge.key] for edge in outgoing)
        for message in messages:
            sizes = message.row_bytes()
            usage = [
                replace(cost, wire=cost.wire + n) for cost, n in zip(usage, sizes, strict=True)
            ]
        return TurnResult(state.text, messages, tuple(usage), state.reasoning, state.finish)


def _reads(given: object) -> bool:
    return hasattr(type(given), "read")


def _wrote(state: SenderState, words: Words) -> SenderState:
    return replace(state, text=words.words, reasoning=words.reasoning, finish=words.finish)


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
