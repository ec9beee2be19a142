"""Caches that grow in place hold what concatenation gives, and leave their source alone."""

from __future__ import annotations

import torch

from unspoken.backbone.caches import fresh_cache, growing_cache, kept, sized_cache
from unspoken.types import KV


def cache(positions: int) -> KV:
    torch.manual_seed(positions)
    shape = (2, 3, positions, 4)
    return tuple((torch.randn(shape), torch.randn(shape)) for _ in range(2))


def test_growing_in_place_gives_what_concatenation_gives():
    stored = cache(5)
    before = [tensor.clone() for pair in stored for tensor in pair]
    usual, growing = fresh_cache(stored), growing_cache(stored)
    for length in (1, 1, 40, 1, 100, 1):  # beyond its room, twice
        for layer, (keys, values) in enumerate(cache(length)):
            expected = usual.layers[layer].update(keys, values)
            found = growing.layers[layer].update(keys, values)
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert growing.get_seq_length() == usual.get_seq_length()
    for a, b in zip(kept(usual), kept(growing), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    after = [tensor for pair in stored for tensor in pair]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_token_in_room_moves_nothing_else():
    growing = growing_cache(cache(5))
    layer = growing.layers[0]
    (keys, values), _ = cache(1)
    layer.update(keys, values)
    assert layer.keys is not None
    place = layer.keys.data_ptr()
    layer.update(keys, values)
    assert layer.keys.data_ptr() == place


def test_nothing_is_copied_before_a_token_comes():
    stored = cache(5)
    assert all(
        mine is given
        for pair, other in zip(kept(growing_cache(stored)), stored, strict=True)
        for mine, given in zip(pair, other, strict=True)
    )


def test_a_cache_of_a_known_size_is_allocated_once_and_gives_what_concatenation_gives():
    for stored in ((), cache(5)):
        usual, sized = fresh_cache(stored), sized_cache(stored, 2, 5 * bool(stored) + 12)
        places = set[int]()
        for length in (8, 4):
            for layer, (keys, values) in enumerate(cache(length)):
                usual.update(keys, values, layer)
                sized.update(keys, values, layer)
            assert sized.get_seq_length() == usual.get_seq_length()
            places.add(kept(sized)[0][0].data_ptr())
        assert len(places) == 1
        for a, b in zip(kept(usual), kept(sized), strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def test_layers_that_were_not_reached_are_not_kept():
    sized = sized_cache((), 2, 8)
    (keys, values), _ = cache(8)
    sized.update(keys, values, 0)
    assert len(kept(sized)) == 1
