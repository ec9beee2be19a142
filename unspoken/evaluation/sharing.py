"""A model that reads many questions after one message, and reads their common beginning once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from unspoken.errors import IncompatibleModels
from unspoken.layout import VECTOR, Chunk, Part, spell
from unspoken.protocols import Fillable, Model, Wrapper, fillable
from unspoken.types import (
    CACHE,
    TEXT,
    CacheSegment,
    Need,
    Prompt,
    Read,
    Spelling,
)

__all__ = ["PrefixSharing"]


class PrefixSharing(Wrapper):
    """Reads as the model inside does, but an equal beginning of rows once, and a prompt once.

    The words of a message come before the question, so N questions about one message share them.
    Tokens and vectors are compared after tokenisation. The result is the same except for rounding.
    A prompt that comes again, as with a channel that fuses, gets the same `Read`. A model that
    cannot be read in parts reads every row itself.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._open: Fillable | None = None
        with suppress(IncompatibleModels):
            self._open = fillable(model, "equal beginnings are read once in")
        self._known: tuple[Prompt, frozenset[Need], Read] | None = None

    @torch.no_grad()
    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        if self._known is not None and self._known[:2] == (prompt, needs):
            return self._known[2]
        found = self._read(prompt, needs)
        self._known = (prompt, needs, found)
        return found

    def _read(self, prompt: Prompt, needs: frozenset[Need]) -> Read:
        model = self._open
        if model is None:
            return self.inner.read(prompt, needs=needs)
        parts = model.lay_out(prompt)
        front, rest = _common(parts)
        window, length = model.spec.window, sum(part.mask.shape[1] for part in parts)
        if needs != frozenset({TEXT}) or not front or (window is not None and length >= window):
            return model.read(prompt, needs=needs)
        begun = model.read_parts(front, 1, needs=frozenset({CACHE})).cached
        assert begun is not None
        silent = CacheSegment(begun.cache, begun.mask, begun.positions).repeat(prompt.batch)
        read = model.read_parts([silent, *rest], prompt.batch, needs=needs)
        spelling = _respelled(parts, read.context.mask)
        return replace(read, found=replace(read.context, spelling=spelling))


def _common(parts: Sequence[Part]) -> tuple[list[Chunk], list[Part]]:
    """Runs of one row that all rows begin with, and the parts after them, of B rows.

    No runs if nothing but the instructions is common: the model reads those once itself.
    """
    front: list[Chunk] = []
    for n, part in enumerate(parts):
        if isinstance(part, Chunk) and part.shared:
            front.append(part)
            continue
        if isinstance(part, Chunk) and part.ids.shape[0] > 1 and (count := _equal_start(part)):
            head, tail = _cut(part, count)
            return [*front, head], [tail, *parts[n + 1 :]]
        break
    return [], list(parts)


def _equal_start(run: Chunk) -> int:
    """How many first tokens and vectors all rows share. Each row keeps at least one after them."""
    shortest = int(run.mask.sum(1).min()) - 1
    ids = torch.stack([row[real][:shortest] for row, real in zip(run.ids, run.mask, strict=True)])
    count = _before_first(ids != ids[:1], shortest)
    if run.vectors is None or not count:
        return count
    seen = cast(list[int], (ids[0, :count] == VECTOR).cumsum(0).tolist())
    vectors = torch.stack([rows[: seen[-1]] for rows in _by_row(run)])
    same = _before_first((vectors != vectors[:1]).any(2), seen[-1])
    return sum(number <= same for number in seen)


def _before_first(differs: Tensor, longest: int) -> int:
    """The columns before the first one of (B, n) in which a row differs."""
    columns = differs.any(0).nonzero()
    return int(columns[0]) if len(columns) else longest


def _by_row(run: Chunk) -> tuple[Tensor, ...]:
    """The vectors of each row, (n, W)."""
    assert run.vectors is not None
    counts = cast(list[int], (run.ids == VECTOR).sum(1).tolist())
    return torch.split(run.vectors, counts)


def _cut(run: Chunk, count: int) -> tuple[Chunk, Chunk]:
    """The first `count` places of one row, and what comes after them in every row."""
    vectors, tail_vectors = None, None
    later = run.mask & (run.mask.cumsum(1) > count)
    keep = later.any(0)
    ids = run.ids[0][run.mask[0]][None, :count]
    if run.vectors is not None:
        shared = int((ids == VECTOR).sum())
        rows = _by_row(run)
        vectors = rows[0][:shared] if shared else None
        left = torch.cat([row[shared:] for row in rows])
        tail_vectors = left if len(left) else None
    head = Chunk(ids, torch.ones_like(ids, dtype=torch.bool), _silent(ids), vectors)
    tail_ids = run.ids[:, keep].masked_fill(~later[:, keep], 0)
    tail = Chunk(tail_ids, later[:, keep], _silent(tail_ids), tail_vectors)
    return head, tail


def _silent(ids: Tensor) -> Spelling:
    return Spelling(("",) * len(ids), torch.full_like(ids, -1))


def _respelled(parts: Sequence[Part], mask: Tensor) -> Spelling:
    """The words of uncut parts, over the places (B, S) that are real after the cut."""
    whole = spell(parts, len(mask))
    real = torch.cat([part.mask.expand(len(mask), -1) for part in parts], 1)
    ends = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    ends[mask] = whole.ends[real]
    return Spelling(whole.words, ends)
