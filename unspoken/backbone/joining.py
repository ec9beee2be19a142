"""Rows that were read apart, as one batch that is padded left."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unspoken.backbone.rereading import TokenCache
from unspoken.types import (
    KV,
    Cache,
    CacheSegment,
    Context,
    KVCache,
    Read,
    Spelling,
    Vectors,
    left_pad,
)

__all__ = ["join_reads"]


def join_reads(reads: Sequence[Read]) -> Read:
    """One batch out of reads of single rows."""
    contexts = [read.found for read in reads if read.found is not None]
    found = _joined(contexts) if contexts else None
    segments = [read.cached for read in reads if read.cached is not None]
    cached = None
    if segments and found is not None:
        cache = _stacked([one.cache for one in segments], [one.mask for one in contexts])
        cached = CacheSegment(cache, found.mask, found.positions, found.spelling)
    hidden: dict[int, Vectors] = {}
    for layer in reads[0].hidden:
        rows = [read.hidden[layer].values[0][read.hidden[layer].mask[0]] for read in reads]
        hidden[layer] = Vectors(*left_pad(rows))
    return Read(
        tokens=tuple(read.tokens[0] for read in reads),
        passes=max(read.passes for read in reads),  # a row takes part only in its read
        found=found,
        hidden=hidden,
        cached=cached,
    )


def _joined(rows: Sequence[Context]) -> Context:
    """Contexts of one row each, real slots side by side."""
    masks = [row.mask for row in rows]
    reals = [mask[0] for mask in masks]
    positions, mask = left_pad(
        [row.positions[0][real] for row, real in zip(rows, reals, strict=True)]
    )
    ends, _ = left_pad(
        [row.spelling.ends[0][real] for row, real in zip(rows, reals, strict=True)], -1
    )
    last = positions.new_tensor([int(row.last) for row in rows])
    spelling = Spelling(tuple(row.spelling.words[0] for row in rows), ends)
    cache = _stacked([row.cache for row in rows], masks)
    return Context(cache, mask, last, spelling, positions, seen=_join_seen(rows, masks))


def _stacked(caches: Sequence[Cache], masks: Sequence[Tensor]) -> Cache:
    """One cache out of single rows, each with as many slots as its mask or one fewer."""
    tokens = [ids for one in caches if isinstance(one, TokenCache) for ids in one.ids]
    if tokens:
        return TokenCache(tuple(tokens))
    each = [one.kv() for one in caches]

    def stack(layer: int, side: int) -> Tensor:
        rows = [
            kv[layer][side][0].transpose(0, 1)[mask[0, : kv[layer][side].shape[2]]]
            for kv, mask in zip(each, masks, strict=True)
        ]
        return left_pad(rows)[0].transpose(1, 2)

    layers: KV = tuple((stack(n, 0), stack(n, 1)) for n in range(len(each[0])))
    return KVCache(layers)


def _join_seen(rows: Sequence[Context], masks: Sequence[Tensor]) -> Tensor | None:
    """(L, B, S) out of (L, 1, S'); None if every row sees all."""
    partial = next((row.seen for row in rows if row.seen is not None), None)
    if partial is None:
        return None
    layers = partial.shape[0]
    whole = [
        mask.expand(layers, -1).T if row.seen is None else row.seen[:, 0].T
        for row, mask in zip(rows, masks, strict=True)
    ]
    cut = [slots[mask[0]] for slots, mask in zip(whole, masks, strict=True)]
    return left_pad(cut, True)[0].permute(2, 0, 1)
