"""What an engine is to read, row by row, as a cache of the seam: names instead of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unspoken.engines.store import Held
from unspoken.types import KV, KVCache

__all__ = ["EngineCache", "Row"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A cache in front, of which the first `used` positions count, then token ids and vectors.

    ids: -1 where a vector goes. vectors: (N, W), those of the row in order, or None.
    """

    front: Held | None = None
    used: int = 0
    ids: tuple[int, ...] = ()
    vectors: Tensor | None = None

    @classmethod
    def of(cls, held: Held) -> Row:
        """A cache as a whole."""
        return cls(held, held.length)

    @property
    def length(self) -> int:
        return self.used + len(self.ids)

    def and_then(self, ids: Sequence[int], vectors: Tensor | None) -> Row:
        """The row with more to read."""
        parts = [part for part in (self.vectors, vectors) if part is not None and len(part)]
        return Row(self.front, self.used, (*self.ids, *ids), torch.cat(parts) if parts else None)

    @property
    def key(self) -> object:
        """Equal for rows that are read alike."""
        name = self.front.name if self.front else ""
        return name, self.used, self.ids, None if self.vectors is None else id(self.vectors)


class Holds(Protocol):
    """A model that keeps what rows hold."""

    @property
    def slot_bytes(self) -> int:
        """The bytes of a position in a cache."""
        ...

    def hold(self, rows: Sequence[Row]) -> list[Held]:
        """The caches of rows. What was not read is read now."""
        ...


class EngineCache:
    """B rows of S slots that an engine reads when it has to, or whose caches it has by name.

    mask: (B, S). The keys and values come out of the engine when `kv` is asked for.
    """

    def __init__(self, model: Holds, parts: Sequence[Row], mask: Tensor) -> None:
        self.model, self.parts, self.mask = model, tuple(parts), mask

    @property
    def batch(self) -> int:
        return len(self.parts)

    @property
    def nbytes(self) -> int:
        return self.model.slot_bytes * sum(row.length for row in self.parts)

    def rows(self, index: slice, keep: Tensor | None = None) -> EngineCache | KVCache:
        mask = self.mask[index]
        if keep is not None:
            if bool(mask[:, ~keep].any()):  # positions are taken out
                return KVCache(self.kv()).rows(index, keep)
            mask = mask[:, keep]
        return EngineCache(self.model, self.parts[index], mask)

    def expand(self, batch: int) -> EngineCache:
        return EngineCache(self.model, self.parts * batch, self.mask.expand(batch, -1))

    def kv(self) -> KV:
        held = self.model.hold(self.parts)
        self.parts = tuple(map(Row.of, held))  # so that nothing is read twice
        if bool(self.mask.all()) and len(held) == 1:
            return held[0].kv
        found: list[tuple[Tensor, Tensor]] = []
        for layer in range(len(held[0].kv)):
            sides: list[Tensor] = []
            for side in range(2):
                _, heads, _, width = held[0].kv[layer][side].shape
                part = held[0].kv[layer][side].new_zeros(*self.mask.shape, heads, width)
                for b, one in enumerate(held):
                    part[b, self.mask[b]] = one.kv[layer][side][0].transpose(0, 1)
                sides.append(part.transpose(1, 2))
            found.append((sides[0], sides[1]))
        return tuple(found)
