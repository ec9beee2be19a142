"""Cache-to-cache fusion on token ids, section by section, as the authors' checkpoints are used.

arXiv 2510.03215. The channel 'fusion' aligns words. Here both sides have one token at each place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from unspoken.channels.fusion import Order, fuse_in
from unspoken.errors import ContextTooLong, EmptyPrompt, IncompatibleModels
from unspoken.projectors import Fuser
from unspoken.protocols import Fillable
from unspoken.types import KV, Context, Spelling

__all__ = ["Sharer", "prefill"]


@dataclass(frozen=True, slots=True, eq=False)
class Sharer:
    """A model that shares its cache through a fuser.

    ids and mask: (B, N), what it reads where its tokenizer is not the receiver's, one token for
    each of the receiver's; see `alignment.translate`. None for the receiver's own.
    """

    model: Fillable
    fuser: Fuser
    ids: Tensor | None = None
    mask: Tensor | None = None


def prefill(
    receiver: Fillable,
    sharers: Sequence[Sharer],
    ids: Tensor,
    mask: Tensor,
    use: Tensor,
    positions: Tensor | None = None,
    *,
    context: Context | None = None,
    order: Order = "sequential",
) -> Context:
    """Read token ids (B, N) and fuse the sharers' caches in, from left to right.

    mask: (B, N), padding anywhere but at the end. use: (B, N), the sharers of each position as
    bits, 1 for the first, 2 for the second, 3 for both; 0 and -1 for none. A row is cut into
    sections where its `use` changes. A section is read whole, then fused, and what follows
    attends to it as fused. The last position is never fused.

    positions: (B, N), for fusers that were trained with positions that count padding; `write` goes
    on counting real ones.

    context: what an earlier call returned for the beginning of the same ids. Its cache is kept as
    it is, and only the rest is read. Sharers keep nothing and read the beginning again.

    Raises `EmptyPrompt`, `ContextTooLong` and `IncompatibleModels` before any forward pass.
    """
    mask = mask.bool()
    start = 0 if context is None else context.mask.shape[1] - 1
    _check(receiver, sharers, mask, use, context)
    chosen, ends = _chosen(sharers, mask, use), _ends(mask, use)
    chosen[..., :start] = False
    read = [
        _read(sharer, ids, mask, positions, fused)
        for sharer, fused in zip(sharers, chosen, strict=True)
    ]
    kv = () if context is None else context.kv
    for end in _cuts(chosen, ends):
        if end > start:
            span = slice(start, end)
            at = None if positions is None else positions[:, span]
            kv = receiver.extend(kv, ids[:, span], mask[:, :end], at, layers=receiver.spec.layers)
            kv = _fuse(kv, sharers, read, chosen[..., :end] & (ends[:, :end] == end), order)
            start = end
    silent = Spelling(("",) * len(ids), torch.full_like(ids, -1))
    return Context.of(kv, mask, ids[:, -1], silent)


def _check(
    receiver: Fillable,
    sharers: Sequence[Sharer],
    mask: Tensor,
    use: Tensor,
    context: Context | None,
) -> None:
    if not bool(mask[:, -1].all()):
        raise EmptyPrompt("every row must end with a token: generation continues from it")
    if int(use.max()) >= 1 << len(sharers):
        raise ValueError(f"use names sharers up to {int(use.max()):b} in bits, of {len(sharers)}")
    if context is not None and not torch.equal(context.mask, mask[:, : context.mask.shape[1]]):
        raise ValueError("the mask does not begin with that of the context; give all ids again")
    given = [(sharer.model, _or(sharer.mask, mask).bool()) for sharer in sharers]
    for model, real in [(receiver, mask), *given]:
        longest, limit = int(real.sum(1).max()), model.spec.positions
        if limit is not None and longest > limit:
            raise ContextTooLong(
                f"the prompt has {longest} positions, but {model.spec.name!r} reads at most "
                f"{limit}; shorten it or choose a model with a longer context"
            )
        if model.spec.window is not None and bool((real.int().diff(dim=1) < 0).any()):
            raise IncompatibleModels(
                f"a row has padding after its first token, but {model.spec.name!r} has a sliding "
                "window and would count it; use rows of one length, or pad on the left"
            )


def _or(given: Tensor | None, default: Tensor) -> Tensor:
    return default if given is None else given


def _chosen(sharers: Sequence[Sharer], mask: Tensor, use: Tensor) -> Tensor:
    """(J, B, N - 1): where each of the J sharers is fused."""
    bits = use.clamp(min=0)
    rows = [
        (bits >> j & 1).bool() & mask & _or(sharer.mask, mask).bool()
        for j, sharer in enumerate(sharers)
    ]
    return torch.stack(rows)[..., :-1] if rows else mask.new_zeros(0, *mask[:, :-1].shape)


def _ends(mask: Tensor, use: Tensor) -> Tensor:
    """(B, N - 1): where the section of each position ends in its row; padding cuts nothing."""
    places = torch.arange(mask.shape[1], device=mask.device)
    real = torch.where(mask, places, 0).cummax(1).values  # padding goes with what comes before
    bits = use.clamp(min=0).gather(1, real)[:, :-1]
    ends = torch.full_like(bits, bits.shape[1])
    ends[:, :-1] = torch.where(bits[:, 1:] != bits[:, :-1], places[1:-1], bits.shape[1])
    return ends.flip(1).cummin(1).values.flip(1)


def _cuts(chosen: Tensor, ends: Tensor) -> list[int]:
    """Where reading stops to fuse a section of some row, and the end."""
    fused = cast(list[int], ends[chosen.any(0)].unique().tolist())
    return sorted({*fused, ends.shape[1]})


def _read(sharer: Sharer, ids: Tensor, mask: Tensor, positions: Tensor | None, fused: Tensor) -> KV:
    """The sharer's own cache up to its last `fused` position (B, N - 1); () if none is needed."""
    columns, layers = fused.any(0).nonzero(), sharer.fuser.layers_read()
    if not len(columns) or not layers:
        return ()
    end = int(columns[-1]) + 1
    at = None if positions is None else positions[:, :end]
    tokens, real = _or(sharer.ids, ids)[:, :end], _or(sharer.mask, mask)[:, :end].bool()
    return sharer.model.extend((), tokens, real, at, layers=layers)


def _fuse(
    kv: KV, sharers: Sequence[Sharer], read: Sequence[KV], chosen: Tensor, order: Order
) -> KV:
    """The cache with a section of some rows fused; chosen: (J, B, S) of all S positions read."""
    plain, slots = kv, torch.arange(chosen.shape[2], device=chosen.device)
    for sharer, source, rows in zip(sharers, read, chosen, strict=True):
        if source:
            kv = fuse_in(sharer.fuser, kv, plain, source, torch.where(rows, slots, -1), order)
    return kv
