"""Caches: what a model keeps of what it has read, and the positions of its slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["KV", "Cache", "KVCache", "counted"]

KV = tuple[tuple[Tensor, Tensor], ...]
"""L pairs (keys, values), each (B, H, S, D); keys as the model stores them, after RoPE."""


class Cache(Protocol):
    """What a model keeps of B rows that it has read, in S slots.

    Only the model that made it has to know what is in it. It may hold tensors of this process, name
    blocks of a serving engine, or hold the state of a model that has no keys and values.
    """

    @property
    def batch(self) -> int:
        """B rows."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        ...

    def rows(self, index: slice, keep: Tensor | None = None) -> Cache:
        """Some rows, and of their slots those where `keep` (S,) is True, or all without it."""
        ...

    def expand(self, batch: int) -> Cache:
        """One row as B equal ones. Nothing is copied."""
        ...

    def kv(self) -> KV:
        """The keys and values. Raises `IncompatibleModels` if there are none in this process."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """Keys and values as tensors of this process, L x (B, H, S, D).

    >>> import torch
    >>> cache = KVCache(((torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4)),))
    >>> cache.expand(3).batch, cache.nbytes
    (3, 320)
    """

    layers: KV

    @property
    def batch(self) -> int:
        return self.layers[0][0].shape[0] if self.layers else 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for pair in self.layers for part in pair)

    def rows(self, index: slice, keep: Tensor | None = None) -> KVCache:
        def some(part: Tensor) -> Tensor:
            return part[index] if keep is None else part[index][:, :, keep]

        return KVCache(tuple((some(keys), some(values)) for keys, values in self.layers))

    def expand(self, batch: int) -> KVCache:
        def equal(part: Tensor) -> Tensor:
            return part.expand(batch, *part.shape[1:])

        return KVCache(tuple((equal(keys), equal(values)) for keys, values in self.layers))

    def kv(self) -> KV:
        return self.layers


def counted(mask: Tensor) -> Tensor:
    """The position of each slot (B, S), where every real slot of `mask` is one position further."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
