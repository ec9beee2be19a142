# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Caches as values: wrapped, extended, cut and padded without writing into a stored tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from unspoken.backbone.inner import text_config
from unspoken.types import KV, CacheSegment, Spelling, Vectors

__all__ = [
    "append",
    "claimed",
    "close_holes",
    "counts",
    "expand",
    "filled_layers",
    "fresh_cache",
    "gather_states",
    "growing_cache",
    "has_holes",
    "kept",
    "layer_kinds",
    "left_order",
    "placed_cache",
    "seen_slots",
    "sized_cache",
]

_SPARE, _ROOM = 32, 128
_FILLED = "filled_slots"  # an attribute of a tensor with room

_KINDS: dict[type, Literal["full", "sliding"]] = {
    DynamicLayer: "full",
    DynamicSlidingWindowLayer: "sliding",
}


def layer_kinds(model: Any) -> tuple[Literal["full", "sliding"], ...]:
    """How far each layer with a cache sees, () if one keeps anything but keys and values.

    Layers at the top that attend to those of lower ones, as in Gemma 3n, have none.
    """
    layers = [type(layer) for layer in DynamicCache(config=text_config(model)).layers]
    while layers and layers[-1] is DummyLayer:
        layers.pop()
    if getattr(model, "_is_stateful", False) or not all(layer in _KINDS for layer in layers):
        return ()
    return tuple(_KINDS[layer] for layer in layers)


def fresh_cache(kv: KV) -> DynamicCache:
    """A fresh cache around stored tensors. Nothing is copied, and growing it does not change them.

    Layers with a sliding window keep all positions too. transformers masks what is out of sight.
    """
    cache = DynamicCache()
    for keys, values in kv:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def growing_cache(kv: KV) -> DynamicCache:
    """A new cache around stored tensors, which are copied with room when the first token comes."""
    cache = DynamicCache()
    cache.layers.extend(_GrowingLayer(pair, pair[0].shape[2] + _SPARE) for pair in kv)
    return cache


def sized_cache(kv: KV, layers: int, slots: int) -> DynamicCache:
    """A new cache of `layers` with room for `slots`, which begins with stored tensors, or empty.

    Passes write in place, so the whole of it is allocated once, and nothing that is read is copied.
    There is room for some tokens more: `claimed` gives it to one row that writes on.
    """
    cache, size = DynamicCache(), slots + _ROOM
    cache.layers.extend(_GrowingLayer(kv[n] if kv else None, size) for n in range(layers))
    return cache


def claimed(kv: KV) -> list[tuple[Tensor, Tensor]] | None:
    """The tensors with room, L x (1, H, C, D), whose first slots a row's cache is. Once only.

    None if there is no room after the last slot, or if somebody writes there already.
    """
    sides: list[Any] = [(part, part._base) for pair in kv for part in pair]
    for part, base in sides:
        free = getattr(base, _FILLED, None) == part.shape[2]
        if not free or base.shape[:2] != part.shape[:2] or base.data_ptr() != part.data_ptr():
            return None
    for _, base in sides:
        delattr(base, _FILLED)
    rooms = [base for _, base in sides]
    return list(zip(rooms[::2], rooms[1::2], strict=True))


class _GrowingLayer(DynamicLayer):
    """A layer that grows in place: a new token is copied, not all that is before it.

    transformers' own layer concatenates, which at batch 16 took 38 % of the time of decoding. There
    is room for `size` positions at first, and it doubles when it runs out.
    """

    def __init__(self, stored: tuple[Tensor, Tensor] | None, size: int) -> None:
        super().__init__()
        self.room, self.size = stored, size
        if stored is not None:
            self.lazy_initialization(*stored)
            self.keys, self.values = stored

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(*new)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        room = self.room
        if room is None or end > room[0].shape[2]:
            room = self.room = self._larger(new, start, max(self.size, end))
        for side, states in zip(room, new, strict=True):
            side[:, :, start:end] = states
            setattr(side, _FILLED, end)
        self.keys, self.values = (side[:, :, :end] for side in room)
        return self.keys, self.values

    def _larger(self, like: tuple[Tensor, Tensor], filled: int, size: int) -> tuple[Tensor, Tensor]:
        keys, values = (one.new_empty(*one.shape[:2], size, one.shape[3]) for one in like)
        if self.room is not None:
            keys[:, :, :filled], values[:, :, :filled] = (one[:, :, :filled] for one in self.room)
        self.size = 2 * size
        return keys, values


def placed_cache(kv: KV, slots: Tensor) -> DynamicCache:
    """A cache of S slots that all exist: new tokens are written into `slots` (B, N), in place."""
    cache = DynamicCache()
    cache.layers.extend(_PlacedLayer(keys, values, slots) for keys, values in kv)
    return cache


class _PlacedLayer(DynamicLayer):
    """A layer whose new keys and values go into slots that exist already."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self.room = keys, values
        self.slots = slots[:, None, :, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        slots = self.slots.expand_as(key_states)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room.scatter_(2, slots, states.to(room.dtype))
        return self.room


def kept(cache: Any) -> KV:
    """The keys and values of the layers that have any."""
    return tuple((one.keys, one.values) for one in cache.layers if one.keys is not None)


def counts(masks: Sequence[Tensor], batch: int) -> tuple[int, ...]:
    """Real positions in each row of some masks (B, S) or (1, S)."""
    return tuple(torch.stack([mask.sum(1).expand(batch) for mask in masks]).sum(0).tolist())


def expand(tensor: Tensor, batch: int) -> Tensor:
    return tensor.expand(batch, *tensor.shape[1:])


def append(kv: KV, more: KV) -> KV:
    if not kv:
        return more
    pairs = zip(kv, more, strict=True)
    return tuple((torch.cat((k, a), 2), torch.cat((v, b), 2)) for (k, v), (a, b) in pairs)


def filled_layers(cached: CacheSegment, heads: Sequence[int]) -> KV:
    """The cache of a segment, with zeros in layers that were left out. Nothing may attend there.

    heads: how many each layer has.
    """

    def whole(part: Tensor, count: int) -> Tensor:
        return part if part.shape[1] else part.new_zeros(part.shape[0], count, *part.shape[2:])

    pairs = zip(cached.kv, heads, strict=True)
    return tuple((whole(keys, count), whole(values, count)) for (keys, values), count in pairs)


def seen_slots(parts: Sequence[Tensor], held: Sequence[tuple[bool, ...]]) -> Tensor | None:
    """(L, B, S): which slots each layer may see, None if all.

    parts: the masks (B, S) of what was read, in order. held: which layers hold each part.
    """
    if all(map(all, held)):
        return None
    pieces = [
        torch.tensor(layers, device=mask.device)[:, None, None].expand(-1, *mask.shape)
        for mask, layers in zip(parts, held, strict=True)
    ]
    return torch.cat(pieces, 2)


def has_holes(mask: Tensor) -> bool:
    """Whether a row has padding after a real position."""
    return bool((mask.int().diff(dim=1) < 0).any())


def close_holes(kv: KV, mask: Tensor, spelling: Spelling) -> tuple[KV, Tensor, Spelling]:
    """Move the padding of every row to its left. The real positions keep their order."""
    order = left_order(mask)

    def move(tensor: Tensor) -> Tensor:
        return tensor.take_along_dim(order[:, None, : tensor.shape[2], None], 2)

    moved = tuple((move(keys), move(values)) for keys, values in kv)
    ends = spelling.ends.gather(1, order)
    return moved, mask.gather(1, order), Spelling(spelling.words, ends)


def left_order(mask: Tensor) -> Tensor:
    """(B, S): the slots of each row, its padding first."""
    return mask.int().argsort(dim=1, stable=True)


def gather_states(parts: Sequence[tuple[Tensor, Tensor]]) -> Vectors:
    states, heard = zip(*parts, strict=True)
    vectors = Vectors(torch.cat(states, 1), torch.cat(heard, 1))
    keep = vectors.mask.any(0)
    return Vectors(vectors.values[:, keep], vectors.mask[:, keep])
