"""Caches beside an engine: names, owners, bytes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from unspoken.engines.caches import EngineCache, Row
from unspoken.engines.store import Store, size_of
from unspoken.errors import OutOfRoom
from unspoken.types import KV, KVCache


def kv(seed: int = 0, length: int = 6) -> KV:
    draw = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, 2, 1, 3, length, 8, generator=draw)
    return tuple((keys, values) for keys, values in parts)


SIZE = size_of(kv())


def test_a_name_says_bytes_owner_and_model():
    store, other = Store(1 << 20, "w float32"), Store(1 << 20, "w bfloat16")
    mine = store.put(kv(), "a")
    others = {store.put(kv(), "b").name, store.put(kv(1), "a").name, other.put(kv(), "a").name}
    assert len(others) == 3
    assert mine.name not in others
    assert mine.name == Store(1 << 20, "w float32").put(kv(), "a").name  # in any process


def test_owners_do_not_reach_each_others():
    store = Store(1 << 20, "w")
    mine, theirs = store.put(kv(), "a"), store.put(kv(), "b")
    assert mine.name != theirs.name
    assert store.find(mine.name, "a") is mine
    assert store.find(mine.name, "b") is None
    assert store.find("made up", "a") is None


def test_what_nobody_holds_is_freed():
    store = Store(2 * SIZE, "w")
    held = [store.put(kv(n), "a") for n in range(2)]
    with pytest.raises(OutOfRoom, match=rf"{2 * SIZE:,} bytes, and {SIZE:,} more.*`budget`"):
        store.put(kv(2), "a")
    assert store.used == 2 * SIZE
    name = held.pop().name
    gc.collect()
    assert store.used == SIZE
    assert store.find(name, "a") is None
    assert store.put(kv(2), "a").length == 6


def test_equal_caches_of_an_owner_are_kept_once():
    store = Store(1 << 20, "w")
    held = [store.put(kv(), "a"), store.put(kv(), "a")]
    assert store.used == SIZE == size_of(held[0].kv)


class Shelf:
    """Holds rows that were read already."""

    slot_bytes = SIZE // 6

    def hold(self, rows: Any) -> list[Any]:
        return [row.front for row in rows]


def cache(*lengths: int) -> tuple[EngineCache, KVCache]:
    """A cache of rows of these lengths, padded left, and the same as tensors."""
    store, longest = Store(1 << 20, "w"), max(lengths)
    rows = [kv(n, length) for n, length in enumerate(lengths)]
    mask = torch.tensor([[False] * (longest - n) + [True] * n for n in lengths])
    whole = tuple(
        tuple(
            torch.cat(
                [
                    torch.nn.functional.pad(row[layer][side], (0, 0, longest - n, 0))
                    for row, n in zip(rows, lengths, strict=True)
                ]
            )
            for side in range(2)
        )
        for layer in range(2)
    )
    parts = [Row.of(store.put(row, "a")) for row in rows]
    plain: Any = whole
    return EngineCache(Shelf(), parts, mask), KVCache(plain)


def same(one: KV, other: KV) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def test_rows_come_out_where_the_mask_has_them():
    found, plain = cache(3, 6, 1)
    assert same(found.kv(), plain.kv())
    assert found.batch == 3
    assert found.nbytes == 10 * Shelf.slot_bytes


def test_rows_are_taken_by_name_and_positions_as_tensors():
    found, plain = cache(3, 6, 1)
    keep = torch.tensor([False, True, True, True, True, True])
    some = found.rows(slice(0, 1), keep)
    assert isinstance(some, EngineCache)
    assert same(some.kv(), plain.rows(slice(0, 1), keep).kv())
    cut = found.rows(slice(0, 2), keep)  # a position of the second row goes
    assert isinstance(cut, KVCache)
    assert same(cut.kv(), plain.rows(slice(0, 2), keep).kv())


def test_one_row_is_repeated():
    found, plain = cache(4)
    assert same(found.expand(3).kv(), plain.expand(3).kv())
    assert found.expand(3).batch == 3
