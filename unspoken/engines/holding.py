"""Rows as requests of an engine, and their caches kept beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from unspoken.backbone import Backbone
from unspoken.cancelling import stop_if_cancelled
from unspoken.engines.caches import EngineCache, Row
from unspoken.engines.engine import Asked, Engine
from unspoken.engines.store import Held, Load
from unspoken.errors import ContextTooLong, IncompatibleModels
from unspoken.layout import VECTOR, Chunk
from unspoken.types import KV, CacheSegment, Context, counted

__all__ = ["Holding"]

_PLACEHOLDER = 0
"""The id that stands for a position whose cache is loaded. The salt tells such blocks apart."""


class Holding:
    """What an owner has read with an engine, and the requests that he makes.

    plain: the model as transformers knows it.
    """

    def __init__(self, plain: Backbone, engine: Engine, owner: str) -> None:
        self.plain, self.engine, self.owner = plain, engine, owner
        self.dtype: torch.dtype = engine.config.model_config.dtype
        self.limit: int = engine.config.model_config.max_model_len

    @property
    def slot_bytes(self) -> int:
        return sum(heads * (k + v) for heads, k, v in self.plain.shapes) * self.dtype.itemsize

    def check_length(self, read: Tensor, more: int | Tensor) -> None:
        """Raise `ContextTooLong` for rows (B,) with `more` to come that exceed the engine."""
        longest = int((read + more).max())
        if longest > self.limit:
            raise ContextTooLong(
                f"{longest} positions exceed the {self.limit} that the engine of "
                f"{self.plain.name!r} takes. Shorten the prompt, lower max_tokens, or start it "
                "with a larger max_model_len"
            )

    # -- rows --------------------------------------------------------------------------------------

    def after(self, rows: Sequence[Row], part: Chunk | CacheSegment) -> list[Row]:
        """Rows with one more part to read.

        Caches are loaded in front of a request. What comes before one is read now, and the cache is
        moved after it.
        """
        if isinstance(part, Chunk):
            more = _split(part, len(rows))
            return [row.and_then(*new) for row, new in zip(rows, more, strict=True)]
        pairs = list(zip(rows, self._fronts(part), strict=True))
        both = [row for row, front in pairs if row.length and front.length]
        before = iter(self.hold(both))
        return [
            self._joined(next(before), front)
            if row.length and front.length
            else (row if row.length else front)
            for row, front in pairs
        ]

    def of(self, context: Context) -> list[Row]:
        """The rows of a context, without their last tokens."""
        if context.seen is not None:
            raise IncompatibleModels(_LAYERS.format(self.plain.name))
        mask, positions = context.mask[:, :-1], context.positions[:, :-1]
        return self._fronts(CacheSegment(context.cache, mask, positions))

    def _fronts(self, part: CacheSegment) -> list[Row]:
        """The rows of a cache, which may come from elsewhere."""
        if bool(((part.positions != counted(part.mask)) & part.mask).any()):
            raise IncompatibleModels(
                f"the cache has fewer slots than positions, but the engine of {self.plain.name!r} "
                "counts slots. Send the whole cache"
            )
        if isinstance(part.cache, EngineCache) and part.cache.model is self:
            return list(part.cache.parts)
        kv = part.cache.kv()
        self._check_shapes(kv)
        found: list[Row] = []
        for b, mask in enumerate(part.mask):
            one = tuple((k[b : b + 1, :, mask], v[b : b + 1, :, mask]) for k, v in kv)
            found.append(Row.of(self.put(one)) if bool(mask.any()) else Row())
        return found

    def put(self, kv: KV) -> Held:
        """Keep the cache of one row. Raises `OutOfRoom`."""
        plain = tuple((_plain(k, self.dtype), _plain(v, self.dtype)) for k, v in kv)
        return self.engine.store.put(plain, self.owner)

    def _joined(self, before: Held, row: Row) -> Row:
        """A cache with that of a row after it."""
        (held,) = self.hold([row])
        pairs = zip(before.kv, self.plain.shift(held.kv, before.length), strict=True)
        whole = tuple((torch.cat((k, a), 2), torch.cat((v, b), 2)) for (k, v), (a, b) in pairs)
        return Row.of(self.put(whole))

    def _check_shapes(self, kv: KV) -> None:
        given = [(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in kv]
        if any(heads == 0 for heads, _, _ in given):
            raise IncompatibleModels(_LAYERS.format(self.plain.name))
        if tuple(given) != self.plain.shapes:
            raise IncompatibleModels(
                f"the cache has {len(given)} layers of {sorted(set(given))}, but those of "
                f"{self.plain.name!r} are {len(self.plain.shapes)} of "
                f"{sorted(set(self.plain.shapes))} (heads, widths of keys and values). Use the "
                "same weights"
            )

    def hold(self, rows: Sequence[Row]) -> list[Held]:
        """The caches of rows. What was not read is read now, equal rows once.

        Raises `OutOfRoom` before anything is read, and `Cancelled`.
        """
        unread = {row.key: row for row in rows if row.ids}
        store = self.engine.store
        room = self.slot_bytes * sum(row.length for row in unread.values())
        store.reserve(room)
        asked = {key: self.asked(row, save=True) for key, row in unread.items()}
        try:
            self.engine.answer(list(asked.values()), stop_if_cancelled)
        except BaseException:
            store.release(room)
            for one in asked.values():
                store.saved.pop(one.name, None)
            raise
        kept = {key: store.saved.pop(one.name) for key, one in asked.items()}
        found = {key: store.keep(kv, self.owner) for key, kv in kept.items()}
        return [found[row.key] if row.ids else self._cut(row) for row in rows]

    def _cut(self, row: Row) -> Held:
        """The cache of a row without anything else to read."""
        assert row.front is not None, "a row that holds nothing is not held"
        if row.used == row.front.length:
            return row.front
        return self.put(tuple((k[:, :, : row.used], v[:, :, : row.used]) for k, v in row.front.kv))

    # -- requests ----------------------------------------------------------------------------------

    def asked(
        self,
        row: Row,
        more: Sequence[int] = (),
        sampling: Mapping[str, Any] = MappingProxyType({}),
        *,
        save: bool = False,
    ) -> Asked:
        """A request that reads a row and more token ids. It writes one token if not told more."""
        ids = [*([_PLACEHOLDER] * row.used), *row.ids, *more]
        load = None
        if row.front is not None:
            load = Load(row.front.name, self.owner, row.used)
        return Asked(
            ids=ids,
            vectors=None if row.vectors is None else self._embedded(ids, row.vectors),
            load=load,
            held=row.front,
            save=save,
            salt=self._salt(load),
            sampling={"max_tokens": 1, "temperature": 0.0, **sampling},
        )

    def _salt(self, load: Load | None) -> str:
        """What blocks that are shared must have in common: the cache in front, and the owner.

        The engine knows loaded positions by a placeholder alone. Without a salt it would answer
        from the blocks of any other cache of that length.
        """
        if load is not None:
            return f"cache {load.name} {load.length}"  # the name is of its bytes, owner and model
        return f"owner {sha256(self.owner.encode()).hexdigest()}" if self.owner else ""

    def _embedded(self, ids: Sequence[int], vectors: Tensor) -> Tensor:
        """Embeddings (S, W), with the vectors in their places."""
        given = torch.tensor(ids)
        found = self.plain.embed(given.clamp(min=0)).clone()
        found[given == VECTOR] = vectors.to(found)
        return found.to(self.dtype)


_LAYERS = (
    "the cache leaves out layers, and the engine of {0!r} cannot keep its layers from seeing one. "
    "Send all layers (ratio=1), or use a Backbone (engine: transformers)"
)


def _plain(part: Tensor, dtype: torch.dtype) -> Tensor:
    return part.detach().to("cpu", dtype).contiguous()


def _split(chunk: Chunk, batch: int) -> list[tuple[list[int], Tensor | None]]:
    """The token ids and the vectors of each row of a chunk."""
    chunk = chunk.expand(batch)
    pairs = zip(chunk.ids, chunk.mask, strict=True)
    rows = [cast(list[int], ids[mask].tolist()) for ids, mask in pairs]
    if chunk.vectors is None:
        return [(ids, None) for ids in rows]
    counts = [ids.count(VECTOR) for ids in rows]
    parts: tuple[Tensor, ...] = torch.split(chunk.vectors, counts)
    return [(ids, part) for ids, part in zip(rows, parts, strict=True)]
