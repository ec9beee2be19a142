"""What a pool keeps for one model: exact beginnings, bases, and what moved texts lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from unspoken import rope
from unspoken.anchors.kvcomm import Anchors, Template, plan_by_anchors
from unspoken.anchors.offsets import Lesson, MeanOffset
from unspoken.anchors.plan import Ladder, Piece, ReusePlan, Row, Taught
from unspoken.anchors.shelf import Base, Shelf
from unspoken.anchors.trie import Trie

__all__ = ["Held", "Store"]


class Held(NamedTuple):
    """Something that a store keeps: what it is, when it last served, its bytes, how to drop it.

    served: whether it was of use after the read that it came from.
    """

    kind: str
    used: int
    served: bool
    bytes: int
    drop: Callable[[], None]


class Store:
    """The trie, the shelf and the offsets of one model in one precision.

    frequencies: (L, R/2), how its keys turn; None if they cannot be moved.
    """

    def __init__(self, ladder: Ladder, frequencies: Tensor | None) -> None:
        self.ladder, self.frequencies = ladder, frequencies
        self.trie, self.shelf = Trie(), Shelf()
        self.offsets: dict[str, MeanOffset | Anchors] = {}
        self.templates: dict[str, Template] = {}
        self.fallen: dict[str, str] = {}

    @property
    def by_paper(self) -> bool:
        return self.ladder.offsets == "paper"

    # -- what can be reused ------------------------------------------------------------------------

    def plan(self, row: Row, *, now: int) -> ReusePlan:
        """Look up what can be reused for a row."""
        path = self.trie.find(torch.tensor(row.ids[: min(row.end, self._opening(row))]), now=now)
        consumers = self._consumers(row)
        beginning = [node.kv[:, :, :, :taken] for node, taken in path]
        plan = ReusePlan(consumers[-1], beginning, len(row.ids))
        if reason := self._immovable(row, plan):
            plan.stay(reason)
        elif self.by_paper:
            template, pools = self.templates.get(plan.consumer), self._anchors(consumers[:-1])
            plan_by_anchors(row, plan, template, self.shelf, pools, now)
        else:
            self._plan_pieces(row, plan, consumers, now)
        return plan

    def _consumers(self, row: Row) -> list[str]:
        return row.consumers(exactly=self.by_paper)

    def knows_template(self, row: Row) -> bool:
        """Whether the fixed texts of a row were kept."""
        return self._consumers(row)[-1] in self.templates

    def _opening(self, row: Row) -> int:
        """Where the part of a row ends that is reused as it is. For the paper it is the opening."""
        return row.shares[0].first if self.by_paper and row.shares else len(row.ids)

    def _immovable(self, row: Row, plan: ReusePlan) -> str:
        """Why nothing may be moved into a row, or ''."""
        if not self.ladder.moved:
            return "the pool moves nothing"
        if self.frequencies is None:
            return "the model's keys cannot be moved"
        if row.exact:
            return "the role reads exactly"
        if not row.shares:
            return "the prompt has no shared text"
        return self.fallen.get(plan.consumer, "")

    def _plan_pieces(self, row: Row, plan: ReusePlan, consumers: Sequence[str], now: int) -> None:
        """Move and correct every text that was read before, or none if a correction is missing."""
        least, taught, low = self.ladder.least, True, plan.done
        for share, consumer in zip(row.shares, consumers, strict=False):
            offset = self._offset(consumer, now)
            end = min(share.last, row.end)
            matches = self.shelf.find(row.ids, share.first, end, now=now, low=low)
            begin, low = max(share.first + self.ladder.first, low), share.last
            if matches and matches[0].at < share.first:
                begin = matches[0].at  # it came after the same words, so its head is right
            for found in matches:
                skipped = max(0, begin - found.at)
                if found.size - skipped < least:
                    continue
                piece = found.piece(skipped)
                if self.ladder.offsets == "mean":
                    plan.lessons.append(Taught(consumer, piece))
                    taught = taught and offset is not None
                if offset is not None:
                    piece = Piece(piece.at, piece.kv, offset.correct(piece.kv))
                plan.move(piece, skipped)
        if not plan.pieces:
            plan.stay("none of its shared texts was read before")
        elif not taught:
            plan.stay("its first read is dense, to learn the offsets")

    def _offset(self, consumer: str, now: int) -> MeanOffset | None:
        offset = self.offsets.get(consumer)
        if not isinstance(offset, MeanOffset):
            return None
        offset.used = now
        return offset

    def _anchors(self, consumers: Sequence[str]) -> list[Anchors]:
        pools = [self.offsets.get(name) for name in consumers]
        fresh = Anchors(self.ladder.entropy, self.ladder.size)
        return [pool if isinstance(pool, Anchors) else fresh for pool in pools]

    # -- what is kept ------------------------------------------------------------------------------

    def keep(self, row: Row, plan: ReusePlan, kv: Tensor, *, now: int) -> None:
        """Keep what a row's read is good for: its cache (L, 2, H, S, D), the last token or not."""
        exact = min(plan.exact, self._opening(row), kv.shape[3])
        self.trie.add(torch.tensor(row.ids[:exact]), kv, now=now)
        if not self.ladder.moved or self.frequencies is None:
            return
        for lesson in plan.lessons if plan.exact == len(row.ids) else ():
            self._learn(lesson, kv, now)
        for _, first, end, cue in row.shares:
            last = min(end, kv.shape[3])
            known = sum(found.size for found in self.shelf.find(row.ids, first, last, now=now))
            if last - first - known >= self.ladder.least:
                free = self.freed(kv[:, :, :, first - cue : last], first - cue)
                self.shelf.add(Base(row.ids[first - cue : last], free, now, cue))

    def keep_written(self, row: Row, ids: tuple[int, ...], kv: Tensor, *, now: int) -> None:
        """Keep what was written after a row as what was read: a conversation may go on from there.

        kv: (L, 2, H, m, D), the cache of the last m tokens.
        """
        whole = torch.tensor((*row.ids, *ids))
        self.trie.add(whole, kv, now=now, first=len(whole) - kv.shape[3])

    def keep_answer(self, ids: tuple[int, ...], kv: Tensor, at: int, *, cue: int, now: int) -> None:
        """Keep what was written, and the `cue` tokens before it: ids (n,) and (L, 2, H, n, D).

        The first of them is at position `at`.
        """
        worth = self.ladder.moved and len(ids) - cue >= self.ladder.least
        if worth and self.frequencies is not None:
            self.shelf.add(Base(ids, self.freed(kv, at), now, cue))

    def keep_template(self, row: Row, kv: Tensor, starts: Sequence[int], *, now: int) -> None:
        """Keep the fixed texts of a row, read in (L, 2, H, S, D) where they start."""
        if self.frequencies is None:
            return
        gaps = [
            self.freed(kv[:, :, :, start : start + end - begin], start)
            for start, (begin, end) in zip(starts, row.gaps(), strict=True)
        ]
        self.templates[self._consumers(row)[-1]] = Template(tuple(gaps), now)

    def freed(self, kv: Tensor, at: int) -> Tensor:
        """A copy of a cache that begins at position `at`, its keys un-rotated."""
        assert self.frequencies is not None
        positions = torch.arange(at, at + kv.shape[3], device=kv.device)
        free = torch.empty_like(kv, memory_format=torch.contiguous_format)
        rope.turn(kv[:, 0], -positions, self.frequencies, out=free[:, 0])
        free[:, 1] = kv[:, 1]
        return free

    def _learn(self, lesson: Taught, kv: Tensor, now: int) -> None:
        def both(piece: Piece) -> tuple[Tensor, Tensor]:
            read = kv[:, :, :, piece.at : piece.at + piece.size]
            return piece.kv, self.freed(read, piece.at)

        base, exact = both(lesson.text)
        if lesson.behind is not None:
            pool = self.offsets.setdefault(
                lesson.consumer, Anchors(self.ladder.entropy, self.ladder.size)
            )
        else:
            pool = self.offsets.setdefault(lesson.consumer, MeanOffset.like(base))
        pool.used = now
        pool.learn(Lesson(base, exact, both(lesson.behind) if lesson.behind else None))

    # -- what it costs -----------------------------------------------------------------------------

    def held(self) -> Iterator[Held]:
        """Everything that may be dropped, in the trie only what nothing follows."""
        for node in self.trie.leaves():
            yield Held("exact", node.used, node.served, node.bytes, partial(self.trie.drop, node))
        for base in self.shelf.bases:
            yield Held("bases", base.used, base.served, base.bytes, partial(self.shelf.drop, base))
        for name, pool in self.offsets.items():
            yield Held(
                "anchors", pool.used, True, pool.bytes, partial(self.offsets.__delitem__, name)
            )
        for name, template in self.templates.items():
            drop = partial(self.templates.__delitem__, name)
            yield Held("anchors", template.used, True, template.bytes, drop)

    def bytes(self) -> dict[str, int]:
        """Bytes by kind: exact, bases, anchors."""
        return {
            "exact": sum(node.bytes for node in self.trie.nodes()),
            "bases": sum(base.bytes for base in self.shelf.bases),
            "anchors": sum(
                thing.bytes for kept in (self.offsets, self.templates) for thing in kept.values()
            ),
        }

    def shapes(self) -> set[tuple[int, ...]]:
        """(L, 2, H, D) of all that is kept: one, unless it is damaged."""
        caches = [node.kv for node in self.trie.nodes()] + [base.kv for base in self.shelf.bases]
        caches += [pool.total for pool in self.offsets.values() if isinstance(pool, MeanOffset)]
        return {(*cache.shape[:3], cache.shape[4]) for cache in caches}

    def check(self) -> None:
        """Raise `AssertionError` if the parts contradict each other."""
        self.trie.check()
        self.shelf.check()
