"""An agent in a conversation: its prompt begins with what it has read and written before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import torch

from unspoken.agents import Agent, Edge, Incoming, TurnResult
from unspoken.agents.framing import Frame, frame_of
from unspoken.agents.roles import Fields
from unspoken.agents.together import Steps
from unspoken.errors import ContextTooLong
from unspoken.layout import lay_out
from unspoken.protocols import Model
from unspoken.runs import LeftOut
from unspoken.sessions.keeping import Keep, Size
from unspoken.sessions.past import Exchange, Past, Stays, item_words, read_by
from unspoken.types import TEXT, CacheSegment, Need, OnText, Prompt, Read, Segment, Text
from unspoken.wire import Message

__all__ = ["ConversingAgent", "Window"]

_NOTES = "Notes of what was said before:\n"


@dataclass(frozen=True, slots=True)
class Window:
    """How much an agent reads and writes in one turn: `positions`, or what its model can take.

    keep: chooses what stays when there is too much. None for an error. now: what templates take for
    today, so that a conversation keeps the date with which it began. budget: bytes of caches that
    an agent may have. What is kept fits in there, so that its cache can be used again.
    """

    now: datetime
    positions: int | None = None
    keep: Keep | None = None
    budget: int = 0

    def room(self, model: Model, written: int) -> int | None:
        """The positions of the longest prompt after which that many tokens can be written."""
        limits = [n for n in (self.positions, model.spec.positions) if n is not None]
        return min(limits) - written if limits else None

    def kept_room(self, model: Model, written: int) -> int | None:
        """As `room`, or the positions for whose cache there is room, if these are fewer."""
        room, each = self.room(model, written), _bytes(model)
        if not (each and self.budget):
            return room
        cached = max(0, self.budget // each - written)
        return cached if room is None else min(room, cached)


class ConversingAgent(Agent):
    """An agent for one run of a conversation. It reads its past before the new item.

    past: what it has read and written. taken: its turns in this run. tell: gets what it leaves out.
    """

    past: Past
    taken: list[Exchange]

    def __init__(
        self,
        agent: Agent,
        model: Model,
        past: Past,
        window: Window,
        tell: Callable[[LeftOut], None],
    ) -> None:
        super().__init__(
            agent.name, model, role=agent.role, settings=agent.settings, soft=agent.soft
        )
        vars(self).update(past=past, window=window, tell=tell, taken=[], stays=past.stays)

    window: Window
    tell: Callable[[LeftOut], None]
    stays: Sequence[Exchange]

    def after(self) -> Past:
        """The past, once the run is over."""
        return self.past.after(self.stays, self.taken)

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
        result = yield from super().turn(
            fields, received, outgoing, answers=answers, step=step, on_text=on_text
        )
        if answers or any(edge.needs for edge in outgoing):  # else it has read nothing
            (words,) = result.text or ("",)
            read = read_by(self.role, fields)
            self.taken.append(Exchange(read, words.strip(), tuple(received)))
        return result

    def read(
        self,
        fields: Fields,
        incoming: Sequence[Incoming] = (),
        *,
        needs: frozenset[Need] = frozenset({TEXT}),
    ) -> Read:
        """Read what stays of the past, and the new item. Raises `ContextTooLong` before a pass."""
        stays = self.standing(fields, incoming, needs)
        vars(self).update(stays=stays.exchanges)
        if gone := self.past.gone(stays.exchanges):
            self.tell(LeftOut(self.name, len(gone), len(stays.notes)))
        return self.read_prompt(self.conversation(stays, fields, incoming), incoming, needs=needs)

    def standing(
        self, fields: Fields, incoming: Sequence[Incoming], needs: frozenset[Need]
    ) -> Stays:
        """What is read of the past in this turn. Raises `ContextTooLong` if there is no room."""
        window, stays = self.window, Stays(tuple(self.stays))
        written = self.most_tokens(needs)
        room = window.room(self.model, written)

        def size(stays: Stays) -> int:
            return _size(self.model, self.conversation(stays, fields, incoming))

        if window.keep is not None:
            stays = self._kept(window.keep, fields, incoming, size, written)
        if room is not None and (whole := size(stays)) > room:
            raise ContextTooLong(
                f"the conversation of {self.name!r} takes {whole} positions and {written} to "
                f"write, but its window has {room + written}. {_remedy(window.keep)}"
            )
        return stays

    def _kept(
        self, keep: Keep, fields: Fields, incoming: Sequence[Incoming], size: Size, written: int
    ) -> Stays:
        """What stays if there is too much, or if there was before."""
        past, room = (
            replace(self.past, stays=tuple(self.stays)),
            self.window.kept_room(self.model, written),
        )
        if room is None or not (past.gone(past.stays) or size(Stays(past.stays)) > room):
            return Stays(past.stays)
        messages = (arrival.message for arrival in incoming)
        return keep(past, item_words(read_by(self.role, fields), messages), size, room)

    def conversation(self, past: Stays, fields: Fields, incoming: Sequence[Incoming]) -> Prompt:
        """The prompt: the opening, earlier exchanges, notes, the new item with its messages."""
        frame = frame_of(self.model, self.role, len(past.exchanges), self.window.now)
        prompt = self.framed(frame, fields, incoming)
        front = len(self.front(frame, 1))
        earlier: list[Segment] = []
        for exchange, (asked, answered) in zip(past.exchanges, frame.joints, strict=True):
            arrived = [Incoming(edge.channel, message) for edge, message in exchange.received]
            around = Frame("", asked, frame.chat, frame.trims)
            item = self.framed(around, exchange.fields, arrived).segments[self.vectors :]
            words = exchange.words if frame.chat else _after(item, exchange.words)
            earlier += [*item, Text((words,)), Text((answered,), frame=True)]
        if past.notes:
            notes = "".join(f"- {note}\n" for note in past.notes)
            earlier += [Text((_NOTES,), frame=True), Text((f"{notes}\n",))]
        segments = (*prompt.segments[:front], *earlier, *prompt.segments[front:])
        return replace(prompt, segments=segments, slot=prompt.slot + len(earlier))

    @property
    def vectors(self) -> int:
        """How many segments of trained vectors come first."""
        return int(self.soft is not None)


def _after(item: Sequence[Segment], words: str) -> str:
    """An answer in plain text, where a space comes before it, as models write it."""
    before = "".join(one.words[0] for one in item if isinstance(one, Text))
    return f" {words}" if words and not before[-1:].isspace() else words


def _size(model: Model, prompt: Prompt) -> int:
    """The positions that a prompt of one row takes up."""
    try:
        parts = lay_out(prompt, model.encode, (), torch.device("cpu"))
    except ContextTooLong:  # too many letters, so nobody counts their tokens
        return 1 << 62
    lengths = (p.length if isinstance(p, CacheSegment) else p.mask.sum(1) for p in parts)
    return int(prompt.bos) + _total(lengths)


def _bytes(model: Model) -> int:
    """The bytes that the cache of a position takes up, 0 for a model that has none."""
    spec = model.spec
    kind = getattr(torch, spec.dtype or "none", None) if "cache" in spec.gives else None
    width = 2 * spec.layers * spec.kv_heads * spec.head_dim
    return width * kind.itemsize if isinstance(kind, torch.dtype) else 0


def _total(lengths: Iterable[torch.Tensor]) -> int:
    return sum(int(one.max()) for one in lengths)


def _remedy(keep: Keep | None) -> str:
    if keep is None:
        return (
            "Begin a new session, or make it with keep='recent', which leaves the oldest exchanges "
            "out, or keep='distilled', which notes them"
        )
    return "Shorten the question or its documents, or lower max_tokens"
