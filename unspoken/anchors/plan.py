"""How a row of a prompt is served: what is reused, what is moved, what is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unspoken.layout import Share

__all__ = ["LADDERS", "Ladder", "Piece", "ReusePlan", "Row", "Source", "Taught"]


_CUE = 16
"""The most tokens of a cue that are kept with an answer."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """What a pool may reuse, and how it repairs what it moves. It always reuses exact beginnings.

    moved: whether texts with a share key are moved here from where they were read. offsets: what
    corrects them. `mean` is one mean offset per text of a prompt, learned from dense reads, of
    which the first read is always one. `paper` is the pool of anchors of KVCOMM, with its `entropy`
    and `size`, which also moves the fixed text after a share. `none` corrects nothing. first:
    tokens at the head of a moved text that are read in place, unless its cache has seen the same
    words before it. share: the part of the moved tokens that is read after all, those that the
    fixed text attends to most. 1 is a dense read. least: fewer tokens are not moved.
    """

    moved: bool = True
    offsets: Literal["none", "mean", "paper"] = "mean"
    first: int = 4
    share: float = 0.0
    least: int = 16
    entropy: float = 0.3
    size: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is a part of the moved tokens, 0 to 1, got {self.share}")
        if min(self.first, self.least) < 0 or self.size < 2:
            raise ValueError(
                f"first and least count tokens and size at least 2 anchors, got first={self.first} "
                f"least={self.least} size={self.size}"
            )


LADDERS = {
    "exact": Ladder(moved=False),
    "shifted": Ladder(offsets="none"),
    "anchored": Ladder(),
    "kvcomm": Ladder(offsets="paper", first=0, least=8),
}
"""Ladders by name; `kvcomm` is the published method (arXiv 2510.12872), for comparison."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a prompt: its tokens, and the places of texts that other agents may read too.

    exact: whether moved caches are forbidden.
    """

    ids: tuple[int, ...]
    shares: tuple[Share, ...]
    exact: bool = False

    @property
    def end(self) -> int:
        """Where reuse ends: the last token is always read, since the next one depends on it."""
        return len(self.ids) - 1

    def consumers(self, *, exactly: bool = False) -> list[str]:
        """For each share its reader's key: the fixed tokens before it and the names of the shares.

        One more key follows the last, for the row as a whole. Shares of one name next to each
        other, as documents are, have one reader, however many there are, and their cues do not
        count. `exactly` tells apart all that is fixed.
        """
        digest, done, before, found = sha256(), 0, "", list[str]()
        for name, first, last, cue in self.shares:
            if exactly or name != before:
                fixed = self.ids[done : first - (0 if exactly else cue)]
                digest.update(repr((fixed, name)).encode())
            found.append(digest.hexdigest())
            done, before = last, name
        digest.update(repr(self.ids[done:]).encode())
        return [*found, digest.hexdigest()]

    @property
    def cue(self) -> tuple[int, ...]:
        """The fixed tokens with which the row ends, at most the last `_CUE`."""
        done = self.shares[-1].last if self.shares else 0
        return self.ids[max(done, len(self.ids) - _CUE) :]

    def named(self, encode: Callable[[str], list[int]]) -> tuple[list[int], list[int]]:
        """The row with the names of the shares in their place, and where its gaps start then."""
        ids, starts, done = list[int](), list[int](), 0
        for share in self.shares:
            ids += [*self.ids[done : share.first], *encode(share.name)]
            starts.append(len(ids))
            done = share.last
        return [*ids, *self.ids[done:]], starts

    def gaps(self) -> list[tuple[int, int]]:
        """The fixed tokens after each share."""
        ends = [*(share.first for share in self.shares[1:]), self.end]
        return [(share.last, end) for share, end in zip(self.shares, ends, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A cache (L, 2, H, n, D), keys un-rotated, for positions from `at` on, and its correction."""

    at: int
    kv: Tensor
    offset: Tensor | None = None

    @property
    def size(self) -> int:
        return self.kv.shape[3]


class Taught(NamedTuple):
    """What a dense read teaches a consumer: how its text, and the fixed text after it, differ."""

    consumer: str
    text: Piece
    behind: Piece | None = None


class Source(IntEnum):
    """Where the cache of a position comes from. The names are those of `Served`."""

    DENSE = 0
    EXACT = 1
    SHIFTED = 2
    ANCHORED = 3
    RECOMPUTED = 4


_MOVED = (Source.SHIFTED, Source.ANCHORED)


class ReusePlan:
    """How a row is served: caches of its beginning, and pieces that are moved into it.

    consumer: who reads, for the probe. sources: (S,), where each of `size` positions comes from.
    lessons: what a dense read of this row would teach. reason: why nothing is moved.
    """

    def __init__(self, consumer: str, beginning: Sequence[Tensor], size: int) -> None:
        self.consumer, self.beginning = consumer, list(beginning)
        self.pieces: list[Piece] = []
        self.lessons: list[Taught] = []
        self.reason = ""
        self.sources = torch.full((size,), Source.DENSE)
        self.sources[: self.done] = Source.EXACT

    @property
    def done(self) -> int:
        """Tokens of the beginning."""
        return sum(kv.shape[3] for kv in self.beginning)

    @property
    def exact(self) -> int:
        """How many positions come before the first approximate one."""
        moved = self.moved
        return int(moved[0]) if len(moved) else len(self.sources)

    @property
    def moved(self) -> Tensor:
        """The positions that are served by pieces."""
        return torch.isin(self.sources, torch.tensor(_MOVED)).nonzero().flatten()

    @property
    def missing(self) -> Tensor:
        """The positions that have to be read."""
        kept = torch.tensor((Source.EXACT, *_MOVED))
        return (~torch.isin(self.sources, kept)).nonzero().flatten()

    def move(self, piece: Piece, skipped: int = 0) -> None:
        """Serve positions by a piece. `skipped` known positions before it are read after all."""
        kind = Source.SHIFTED if piece.offset is None else Source.ANCHORED
        self.pieces.append(piece)
        before = self.sources[piece.at - skipped : piece.at]
        before[before == Source.DENSE] = Source.RECOMPUTED
        self.sources[piece.at : piece.at + piece.size] = kind

    def stay(self, reason: str) -> None:
        """Move nothing, and say why."""
        self.pieces, self.reason = [], reason
        self.sources[self.done :] = Source.DENSE

    def forget(self, reason: str) -> None:
        """Reuse nothing at all, and say why."""
        self.beginning = []
        self.stay(reason)
