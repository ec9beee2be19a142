"""What an agent still reads of a conversation that has become longer than its window."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, cast

from unspoken.agents.searching import check_search, fits
from unspoken.errors import PipelineError, require, unknown
from unspoken.sessions.notes import Note, note_of, words_of
from unspoken.sessions.past import Exchange, Past, Stays

__all__ = ["KEEPS", "Distilled", "Keep", "Recent", "Size", "keep_of"]

Size = Callable[[Stays], int]
"""The positions of a prompt in which this comes before the new question."""


class Keep(Protocol):
    """Chooses what an agent reads of its past once the whole has no room."""

    def __call__(self, past: Past, asked: str, size: Size, room: int) -> Stays:
        """What is read in this turn: exchanges of `past.stays`, or others, and notes of the rest.

        It is called when `past.stays` has no room, and in each turn after it left something out.
        The next turn has its exchanges as `past.stays`, and not its notes. asked: the words of the
        new item and its messages. size: asked for what would be read instead. room: the most
        positions that a prompt may have.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest exchanges stay.

    The oldest are dropped in blocks, each of what `share` leaves of the room. Then several runs
    follow whose prompts share a beginning, and its cache is used again. Dropping one exchange in
    each run would change the beginning each time.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    def __call__(self, past: Past, asked: str, size: Size, room: int) -> Stays:
        return Stays(_newest(past, size, room, self.share))


@dataclass(frozen=True, slots=True)
class Distilled:
    """The newest exchanges stay as with `Recent`, and of the others the agent reads short notes.

    notes: the part of the room that notes may take up, see `Note`. The rest is for exchanges. The
    exchange whose words fit the new question best, by BM25 (Robertson and Zaragoza 2009), comes
    first, in its own words if these take up at most half of that. Notes follow of what the user
    ruled, of what else fits the question, and of the newest. They stand in the order of the
    conversation, right before the question, so that a prompt begins as the one before it while
    notes change. Raises `MissingExtra` without bm25s.
    """

    share: float = 0.5
    notes: float = 0.25

    def __post_init__(self) -> None:
        _check_share("share", self.share)
        _check_share("notes", self.notes)
        check_search()

    def __call__(self, past: Past, asked: str, size: Size, room: int) -> Stays:
        whole = Stays(past.stays)
        if not past.gone(past.stays) and size(whole) <= room:
            return whole
        newest = _newest(past, size, int((1 - self.notes) * room), self.share)
        gone, before = past.gone(newest), size(Stays(newest))
        if not gone:
            return Stays(newest)
        most = min(room, before + int(self.notes * room))
        notes = [note_of(one) for one in gone]
        order = _order(gone, notes, asked, past.exchanges[-1])
        lines = list(map(str, notes))
        look = words_of(gone[order[0]])
        if size(Stays(newest, (look,))) <= (before + most) / 2:
            lines[order[0]] = look

        def noted(count: int) -> Stays:
            return Stays(newest, tuple(lines[n] for n in sorted(order[:count])))

        counts = range(1, len(gone) + 1)
        return noted(bisect_left(counts, True, key=lambda n: size(noted(n)) > most))


def _order(
    gone: Sequence[Exchange], notes: Sequence[Note], asked: str, last: Exchange
) -> list[int]:
    """The best for a question, what the user ruled, the rest by their fit, the newest.

    A question may lean on the exchange before it, whose words count half.
    """
    texts = [_said(one) for one in gone]
    pairs = zip(fits(texts, asked), fits(texts, _said(last)), strict=True)
    scores = [own + before / 2 for own, before in pairs]
    best = max(scores, default=0.0)

    def rank(n: int) -> tuple[bool, bool, float, int]:
        return scores[n] < best, not notes[n].rule, -scores[n], -n

    return sorted(range(len(gone)), key=rank)


def _said(exchange: Exchange) -> str:
    return f"{exchange.asked}\n{exchange.words}"


def _newest(past: Past, size: Size, room: int, share: float) -> tuple[Exchange, ...]:
    """All exchanges if they have room, else the newest, from the end of a block on.

    Blocks are counted from the first exchange, so where a conversation is cut follows from its
    words alone: a session that goes on and one that begins with the same history read the same.
    """
    every = past.exchanges
    if size(Stays(every)) <= room:
        return every

    def has_room(dropped: int) -> bool:
        return size(Stays(every[dropped:])) <= room

    bare, block = size(Stays()), (1 - share) * room

    def taken(count: int) -> int:
        """The positions of the first exchanges."""
        return size(Stays(every[:count])) - bare

    numbers = range(len(every))
    least = bisect_left(numbers, True, lo=1, key=has_room)
    if block == 0 or least >= len(every):
        return every[least:]
    end = ceil(taken(least) / block) * block
    return every[bisect_left(numbers, True, lo=least, key=lambda count: taken(count) >= end) :]


def keep_of(given: Any) -> Keep | None:
    """What is kept, by name or as it is given.

    Raises `UnknownName`, `PipelineError`, and `MissingExtra` for what needs another library.
    """
    if isinstance(given, str):
        if given not in KEEPS:
            raise unknown("way to keep a conversation", given, KEEPS)
        return KEEPS[given]()
    allowed = "'recent', 'distilled', or a function such as Recent()"
    require(given is None or callable(given), "keep", given, allowed, PipelineError)
    return cast(Keep | None, given)


def _check_share(name: str, given: Any) -> None:
    fits = 0 < given <= 1
    require(fits, name, given, "a share of the room, above 0, to 1", PipelineError)


KEEPS: Mapping[str, Callable[[], Keep]] = {"recent": Recent, "distilled": Distilled}
"""By name what a session does when a window is full."""
