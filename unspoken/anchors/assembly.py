"""Puts known caches in their place, and reads what is missing between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unspoken import rope
from unspoken.anchors.plan import Piece, ReusePlan, Row, Source
from unspoken.backbone.passes import chunked
from unspoken.protocols import Fillable
from unspoken.types import Ahead, left_pad

__all__ = ["assemble"]


def assemble(
    model: Fillable,
    rows: Sequence[Row],
    plans: Sequence[ReusePlan],
    frequencies: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor, Ahead, int]:
    """The cache of B rows, (L, 2, B, H, S, D), its mask (B, S), and the forward passes it took.

    It also returns what comes next. share: the part of the moved tokens that is read again, after
    the rest. These are the ones to which the others attend most. Raises `Cancelled`.
    """
    spec, device = model.spec, model.device
    ids, mask = left_pad([torch.tensor(row.ids, device=device) for row in rows])
    shape = (spec.layers, 2, len(rows), spec.kv_heads, ids.shape[1], spec.head_dim)
    room = torch.empty(shape, dtype=model.dtype, device=device)
    for b, plan in enumerate(plans):
        _place(plan, room[:, :, b], frequencies)
    kv = tuple((layer[0], layer[1]) for layer in room)

    def fill(missing: Sequence[Tensor]) -> tuple[Tensor, Tensor, int]:
        slots = _padded(missing, rows, ids.shape[1]).to(device)
        read: list[tuple[Tensor, Tensor]] = []
        for part in chunked(slots.shape[1]):
            tokens = ids.gather(1, slots[:, part])
            read.append(model.fill(kv, tokens, slots[:, part], mask, attended=share > 0))
        paid = torch.stack([paid.sum(0) for _, paid in read]).sum(0)
        return read[-1][0], paid, len(read)

    logits, attended, passes = fill([plan.missing for plan in plans])
    chosen = [_choose(plan, paid, share) for plan, paid in zip(plans, attended, strict=True)]
    if not any(map(len, chosen)):
        return room, mask, Ahead(kv, logits), passes
    logits, _, more = fill([_onwards(*pair) for pair in zip(plans, chosen, strict=True)])
    return room, mask, Ahead(kv, logits), passes + more


def _padded(missing: Sequence[Tensor], rows: Sequence[Row], length: int) -> Tensor:
    """Positions of rows as slots (B, N); a row with fewer names its last one again."""
    slots = torch.full((len(rows), max(map(len, missing))), length - 1)
    for b, (positions, row) in enumerate(zip(missing, rows, strict=True)):
        slots[b, : len(positions)] = positions + (length - len(row.ids))
    return slots


def _choose(plan: ReusePlan, paid: Tensor, share: float) -> Tensor:
    """The moved positions that got most attention, in order. They are read after all."""
    moved = plan.moved
    paid = paid[len(paid) - len(plan.sources) :].cpu()[moved]
    chosen = moved[paid.topk(round(share * len(moved))).indices].sort().values
    plan.sources[chosen] = Source.RECOMPUTED
    return chosen


def _onwards(plan: ReusePlan, chosen: Tensor) -> Tensor:
    """The chosen positions and all that was read after the first of them."""
    missing = plan.missing
    return missing[missing >= chosen[0]] if len(chosen) else missing[-1:]


def _place(plan: ReusePlan, room: Tensor, frequencies: Tensor | None) -> None:
    """Fill a row's cache (L, 2, H, S, D), padded left, with what is known. The rest is zeros."""
    left = room.shape[3] - len(plan.sources)
    room[:, :, :, :left] = 0
    room[:, :, :, left + plan.missing] = 0
    at = left
    for known in plan.beginning:
        room[:, :, :, at : at + known.shape[3]] = known
        at += known.shape[3]
    for piece in plan.pieces:
        assert frequencies is not None
        _move(piece, room[:, :, :, left + piece.at :][:, :, :, : piece.size], frequencies)


def _move(piece: Piece, room: Tensor, frequencies: Tensor) -> None:
    """Put a piece in its place: keys turned to their positions, keys and values corrected."""
    (keys, values), offset = piece.kv.unbind(1), piece.offset
    if offset is not None:
        keys, values = keys + offset[:, 0], torch.add(values, offset[:, 1], out=room[:, 1])
    positions = torch.arange(piece.at, piece.at + piece.size, device=room.device)
    rope.turn(keys, positions, frequencies, out=room[:, 0])
    if offset is None:
        room[:, 1] = values
