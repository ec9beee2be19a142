"""Tokens read into the slots of a filled cache are what they are in a dense read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unspoken.backbone import Backbone
from unspoken.testing import KINDS
from unspoken.types import CACHE, KV, Prompt, Text

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

ROWS = ("the quick brown fox jumps over the lazy dog", "what is it then, if it is a dog?")


def dense(model: Backbone) -> tuple[KV, Tensor, Tensor]:
    read = model.read(Prompt((Text(ROWS),)), needs=frozenset({CACHE}))
    assert read.cached is not None
    run = model.lay_out(Prompt((Text(ROWS),)))[0]
    return read.cached.kv, run.mask, run.ids


def farthest(one: KV, other: KV, mask: Tensor) -> float:
    real = mask[:, None, :, None]
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return max(float(((a - b) * real).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", ["some", "all"])
def test_filling_gives_the_dense_cache(tiny: Tiny, kind: str, chosen: str):
    model = tiny(kind)
    kv, mask, ids = dense(model)
    length, behind = mask.shape[1], int((~mask).sum(1).max())
    every = list(range(behind, length))
    slots = torch.tensor([every if chosen == "all" else [*every[3:7], *every[20:25], *every[-4:]]])
    slots = slots.expand(2, -1).clone()
    holed = tuple((k.clone(), v.clone()) for k, v in kv)
    for keys, values in holed:
        for tensor in (keys, values):
            there = slots[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
            tensor.scatter_(2, there, 9.0)
    if chosen == "all":  # the longer row begins further left
        extra = torch.arange(behind)
        ids_left = ids[:, :behind].clamp(min=0)
        shorter = int((~mask).sum(1).argmax())
        slots = torch.cat((extra.expand(2, -1), slots), 1)
        slots[shorter, :behind] = behind  # names one of its own tokens again
        given = torch.cat((ids_left, ids[:, behind:]), 1)
        given[shorter, :behind] = ids[shorter, behind]
    else:
        given = ids.gather(1, slots)
    model.fill(holed, given, slots, mask)
    # Sums of other lengths were seen to differ by 4e-5; a wrong position or mask is 1e-3 away.
    assert farthest(holed, kv, mask) < 1e-4


def test_a_filled_token_sees_nothing_behind_it(tiny: Tiny):
    model = tiny("llama")
    kv, mask, ids = dense(model)
    slot = torch.tensor([[10], [20]])
    spoilt = tuple((k.clone(), v.clone()) for k, v in kv)
    for keys, values in spoilt:
        keys[0, :, 11:], values[0, :, 11:] = 7.0, 7.0
        keys[1, :, 21:], values[1, :, 21:] = 7.0, 7.0
    model.fill(spoilt, ids.gather(1, slot), slot, mask)
    for (k, v), (a, b) in zip(kv, spoilt, strict=True):
        for row, n in ((0, 10), (1, 20)):
            torch.testing.assert_close(a[row, :, n], k[row, :, n], atol=1e-4, rtol=0)
            torch.testing.assert_close(b[row, :, n], v[row, :, n], atol=1e-4, rtol=0)


def test_few_tokens_copy_no_shared_keys_and_values(tiny: Tiny, key_heads: set[int]):
    model = tiny("llama")
    kv, mask, ids = dense(model)
    slots = torch.arange(mask.shape[1] - 4, mask.shape[1]).expand(2, -1)
    room = tuple((k.clone(), v.clone()) for k, v in kv)
    assert model.fills
    key_heads.clear()
    model.fill(room, ids.gather(1, slots), slots, mask)
    assert key_heads == {model.spec.kv_heads}
    assert model.spec.kv_heads < model.model.config.num_attention_heads
    assert model.attention == "sdpa"
