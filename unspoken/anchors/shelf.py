"""Caches of texts that may be anywhere in a prompt: found by their words, at no position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from unspoken.anchors.plan import Piece

__all__ = ["Base", "Found", "Shelf"]

_WINDOW = 8
"""Tokens by which a base is found."""

_SLACK = 4
"""Tokens at the front of a text, or of a base, that may differ: a space, a word cut in two."""


@dataclass(slots=True, eq=False)
class Base:
    """The cache (L, 2, H, n, D) of n tokens as they were read somewhere, keys un-rotated.

    cue: how many of them come right before the text itself and introduce it. used: when it was kept
    or last served. served: whether it has served at all since it was kept.
    """

    ids: tuple[int, ...]
    kv: Tensor
    used: int = 0
    cue: int = 0
    served: bool = False

    @property
    def bytes(self) -> int:
        return self.kv.nbytes


class Found(NamedTuple):
    """A base that holds `size` tokens from its token `begin` on, wanted at position `at`."""

    base: Base
    begin: int
    at: int
    size: int

    def piece(self, skip: int = 0) -> Piece:
        """The cache of these tokens, without the first `skip`."""
        begin, end = self.begin + skip, self.begin + self.size
        return Piece(self.at + skip, self.base.kv[:, :, :, begin:end])


class Shelf:
    """Bases, indexed by the tokens with which their texts begin.

    >>> import torch
    >>> shelf = Shelf()
    >>> words = tuple(range(100, 120))
    >>> shelf.add(Base(words, torch.zeros(1, 2, 1, 20, 4)))
    >>> prompt = (1, 2, 3, 99, *words[1:], 4)
    >>> [(found.begin, found.at, found.size) for found in shelf.find(prompt, 3, 23, now=1)]
    [(1, 4, 19)]
    >>> shelf.add(Base((7, 8, *words[9:]), torch.zeros(1, 2, 1, 13, 4), cue=2))
    >>> prompt = (6, 8, *words[9:], 4)
    >>> [(found.begin, found.at, found.size) for found in shelf.find(prompt, 2, 13, now=2, low=0)]
    [(1, 1, 12)]
    """

    def __init__(self) -> None:
        self.bases: list[Base] = []
        self._index: defaultdict[tuple[int, ...], list[tuple[Base, int]]] = defaultdict(list)

    def find(
        self, ids: Sequence[int], first: int, last: int, *, now: int, low: int | None = None
    ) -> list[Found]:
        """The runs of tokens `first` to `last` - 1 that are kept here, in order, without overlap.

        With `low`, also the tokens from there on that came before the text in its base. Of equal
        texts, the one that came after the same words is taken.
        """
        found: list[Found] = []
        low = first if low is None else low
        while match := self._at(ids, first, last, low):
            match.base.served |= now > match.base.used
            match.base.used = now
            found.append(match)
            first = low = match.at + match.size
        return found

    def _at(self, ids: Sequence[int], first: int, last: int, low: int) -> Found | None:
        """The longest run from `first` or a few tokens on, and the equal tokens before it."""
        best: Found | None = None
        for at in range(first, min(first + _SLACK, last - _WINDOW + 1)):
            for base, begin in self._index.get(tuple(ids[at : at + _WINDOW]), ()):
                size = _shared(base.ids, begin, ids, at, last)
                found = _grown(Found(base, begin, at, size), ids, low)
                if best is None or found.size > best.size:
                    best = found
        return best

    def add(self, base: Base) -> None:
        """Keep a base, unless it has too few tokens to be found."""
        keys = _keys(base)
        if keys:
            self.bases.append(base)
        for key, begin in keys:
            self._index[key].append((base, begin))

    def drop(self, base: Base) -> None:
        """Forget a base."""
        self.bases.remove(base)
        for key, begin in _keys(base):
            self._index[key].remove((base, begin))
            if not self._index[key]:
                del self._index[key]

    def check(self) -> None:
        """Raise `AssertionError` unless the index names each base, and nothing else."""
        named = sorted((id(base), begin) for rows in self._index.values() for base, begin in rows)
        there = sorted((id(base), begin) for base in self.bases for _, begin in _keys(base))
        assert named == there, "the index of the shelf names other bases than it holds"
        for base in self.bases:
            assert base.kv.shape[3] == len(base.ids), "a base has more tokens than cache, or fewer"


def _grown(found: Found, ids: Sequence[int], low: int) -> Found:
    """The same, with the equal tokens before it, down to token `low`."""
    base, begin, at, size = found
    most = min(begin, at - low)
    more = next((n for n in range(most) if base.ids[begin - n - 1] != ids[at - n - 1]), most)
    return Found(base, begin - more, at - more, size + more)


def _keys(base: Base) -> list[tuple[tuple[int, ...], int]]:
    """The first windows of a base's text, and where they begin."""
    starts = range(base.cue, min(base.cue + _SLACK, len(base.ids) - _WINDOW + 1))
    return [(base.ids[begin : begin + _WINDOW], begin) for begin in starts]


def _shared(ids: Sequence[int], begin: int, other: Sequence[int], at: int, last: int) -> int:
    """How many tokens two sequences share from `begin` and from `at` on, before `last`."""
    most = min(len(ids) - begin, last - at)
    return next((n for n in range(most) if ids[begin + n] != other[at + n]), most)
