"""The layout of an engine's blocks is found by numbers, whatever it is, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unspoken.engines.blocks import Blocks, Layout
from unspoken.errors import IncompatibleModels

BLOCKS = Blocks(number=5, size=4, heads=2, width=8)
Write = Callable[[Tensor, Tensor, Tensor], None]


def flash(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Write]:
    """FlashAttention's: keys and values, blocks, slots, heads, width."""
    memory = torch.zeros(2, 5, 4, 2, 8, dtype=dtype, device=device)

    def write(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        slots = slots.to(device)
        memory[0, slots // 4, slots % 4], memory[1, slots // 4, slots % 4] = keys, values

    return memory, write


def heads_first(dtype: torch.dtype) -> tuple[Tensor, Write]:
    """Blocks and heads first, and in another order in memory, as a permuted view."""
    memory = torch.zeros(5, 2, 2, 4, 8, dtype=dtype).permute(0, 2, 1, 3, 4)

    def write(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        memory[slots // 4, :, 0, slots % 4], memory[slots // 4, :, 1, slots % 4] = keys, values

    return memory, write


def turned_keys(dtype: torch.dtype) -> tuple[Tensor, Write]:
    """As on a CPU: in a head of a block, keys are (D, T) and values (T, D)."""
    memory = torch.zeros(5, 2, 4, 16, dtype=dtype)

    def write(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        sides = memory.view(5, 2, 2, 32)
        for key, value, slot in zip(keys, values, slots.tolist(), strict=True):
            block, at = divmod(slot, 4)
            sides[block, :, 0].view(2, 8, 4)[:, :, at] = key
            sides[block, :, 1].view(2, 4, 8)[:, at] = value

    return memory, write


def spread(dtype: torch.dtype) -> tuple[Tensor, Write]:
    """In an order that no strides describe, with room that is not used."""
    memory = torch.zeros(5, 200, dtype=dtype)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))[:128].view(4, 2, 2, 8)

    def write(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        for key, value, slot in zip(keys, values, slots.tolist(), strict=True):
            block, at = divmod(slot, 4)
            memory[block, order[at]] = torch.stack((key, value))

    return memory, write


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("made", [flash, heads_first, turned_keys, spread])
def test_what_is_written_is_read(made: Callable[[torch.dtype], tuple[Tensor, Write]], dtype):
    memory, write = made(dtype)
    layout = Layout.learn(memory, write, BLOCKS)
    assert not memory.any()
    drawn = torch.randn(2, 7, 2, 8).to(dtype)
    chosen = [3, 1]
    slots = torch.tensor([12, 13, 14, 15, 4, 5, 6])
    write(drawn[0], drawn[1], slots)
    keys, values = layout.read(memory, chosen, 7)
    assert torch.equal(keys, drawn[0].transpose(0, 1)[None])
    assert torch.equal(values, drawn[1].transpose(0, 1)[None])


def test_many_numbers_are_told_apart_in_sixteen_bits():
    blocks = Blocks(number=3, size=128, heads=3, width=64)
    memory = torch.zeros(3, 2, 128, 3, 64, dtype=torch.bfloat16)

    def write(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        memory[slots // 128, 0, slots % 128], memory[slots // 128, 1, slots % 128] = keys, values

    assert torch.equal(
        Layout.learn(memory, write, blocks).index.flatten(), torch.arange(2 * 128 * 3 * 64)
    )


def test_numbers_that_are_rounded_are_refused():
    memory, write = flash(torch.float32)

    def rounds(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        write(*(part.to(torch.float8_e4m3fn).float() for part in (keys, values)), slots)

    with pytest.raises(IncompatibleModels, match=r"cannot be read back.*Backbone"):
        Layout.learn(memory, rounds, BLOCKS)


def test_one_latent_for_all_heads_is_refused():
    memory, write = flash(torch.float32)

    def latent(keys: Tensor, values: Tensor, slots: Tensor) -> None:
        write(keys, keys, slots)

    with pytest.raises(IncompatibleModels, match="cannot be read back"):
        Layout.learn(memory, latent, BLOCKS)


def test_bytes_are_refused():
    memory = torch.zeros(2, 5, 4, 2, 8, dtype=torch.uint8)
    with pytest.raises(IncompatibleModels, match="kv_cache_dtype='auto'"):
        Layout.learn(memory, lambda *_: None, BLOCKS)


def test_a_layer_that_keeps_them_otherwise_does_not_have_the_layout():
    memory, write = flash(torch.float32)
    layout = Layout.learn(memory, write, BLOCKS)
    assert layout.holds(memory, write)
    assert not layout.holds(memory, lambda keys, values, slots: write(values, keys, slots))


@pytest.mark.gpu
def test_it_is_learned_on_a_gpu():
    memory, write = flash(torch.bfloat16, "cuda")
    layout = Layout.learn(memory, write, BLOCKS)
    drawn = torch.randn(2, 4, 2, 8, dtype=torch.bfloat16, device="cuda")
    write(drawn[0], drawn[1], torch.arange(8, 12))
    keys, values = layout.read(memory, [2], 4)
    assert keys.device.type == values.device.type == "cpu"
    assert torch.equal(keys, drawn[0].transpose(0, 1)[None].cpu())
