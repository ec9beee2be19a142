"""What is proved on a model before use: its keys turn by position, its cache can be filled."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from unspoken import rope
from unspoken.backbone.caches import kept
from unspoken.types import KV

__all__ = ["filled", "moves", "near", "rotary", "turns_by_length"]


def near(one: KV, other: KV, dtype: torch.dtype) -> bool:
    """Whether two caches are the same in every layer, apart from rounding."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    return all(
        float((a - b).norm()) <= tolerance * float(b.norm())
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def rotary(base: Any, layers: int) -> list[Tensor] | None:
    """Rotary frequencies (R/2,) of L layers, in radians per position; None if there are none."""
    found = getattr(base, "rotary_emb", None)
    kinds = getattr(base.config, "layer_types", None) or ["full"] * layers
    turns: list[Any] = [
        getattr(found, f"{kind}_inv_freq", None)
        if hasattr(found, f"{kind}_inv_freq")
        else getattr(found, "inv_freq", None)
        for kind in kinds
    ]
    return None if any(turn is None for turn in turns) else turns


def turns_by_length(base: Any) -> bool:
    """Whether keys turn by the length of all that is read, not by their position alone."""
    kind = getattr(getattr(base, "rotary_emb", None), "rope_type", "")
    return any(name in str(kind) for name in ("longrope", "dynamic"))


@torch.no_grad()
def moves(base: Any, frequencies: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether keys moved by rotation equal keys that are read at the new position."""
    device = base.device
    probe = torch.arange(4, device=device)[None]
    caches = [_read(base, probe, start) for start in (probe, probe + 5)]
    by = torch.tensor([5], device=device)
    return near(rope.rotate(caches[0], by, frequencies), caches[1], dtype)


@torch.no_grad()
def filled(base: Any, fill: Callable[..., object], dtype: torch.dtype) -> bool:
    """Whether `fill` gives what a dense read gives: two of six tokens are filled in."""
    ids = torch.arange(6, device=base.device)[None]
    mask, dense = torch.ones_like(ids, dtype=torch.bool), _read(base, ids, ids)
    room = tuple((keys.clone(), values.clone()) for keys, values in dense)
    for keys, values in room:
        keys[:, :, 2:4], values[:, :, 2:4] = 0, 0
    with (
        torch.autocast(base.device.type, enabled=False),
        suppress(TypeError, ValueError, RuntimeError, IndexError),
    ):
        fill(room, ids[:, 2:4], ids[:, 2:4], mask)
    return near(room, dense, dtype)


def _read(base: Any, ids: Tensor, at: Tensor) -> KV:
    cache = DynamicCache()
    with torch.autocast(base.device.type, enabled=False):
        base(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True)
    return kept(cache)
