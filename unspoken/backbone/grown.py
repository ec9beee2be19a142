"""A cache and what was written after it, put together only if somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from unspoken.types import KV, Cache, KVCache

__all__ = ["GrownCache"]


@dataclass(frozen=True, slots=True, eq=False)
class GrownCache:
    """What was read and what was written after it, in S + N slots.

    read: B rows of S slots. written: L x (B, H, N, D), each row from its first slot on, and 0 where
    it wrote fewer.
    """

    read: Cache
    written: KV

    @classmethod
    def of(cls, read: Cache, rows: Sequence[KV]) -> GrownCache:
        """rows: for each row what it wrote, L x (1, H, n, D), or () for nothing."""
        like = next((row for row in rows if row), ())
        if not like:
            return cls(read, ())
        most = max(row[0][0].shape[2] for row in rows if row)

        def stacked(layer: int, side: int) -> Tensor:
            parts = [row[layer][side] if row else like[layer][side][:, :, :0] for row in rows]
            return torch.cat([pad(part, (0, 0, 0, most - part.shape[2])) for part in parts])

        return cls(read, tuple((stacked(n, 0), stacked(n, 1)) for n in range(len(like))))

    @property
    def batch(self) -> int:
        return self.read.batch

    @property
    def nbytes(self) -> int:
        return self.read.nbytes + KVCache(self.written).nbytes

    def rows(self, index: slice, keep: Tensor | None = None) -> KVCache:
        return KVCache(self.kv()).rows(index, keep)

    def expand(self, batch: int) -> KVCache:
        return KVCache(self.kv()).expand(batch)

    def kv(self) -> KV:
        if not (self.written and self.read.kv()):
            return self.written or self.read.kv()
        pairs = zip(self.read.kv(), self.written, strict=True)
        return tuple((torch.cat((k, a), 2), torch.cat((v, b), 2)) for (k, v), (a, b) in pairs)
