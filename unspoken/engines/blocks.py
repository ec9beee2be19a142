"""Where an engine's blocks keep keys and values: learned by writing numbers and finding them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unspoken.errors import IncompatibleModels

__all__ = ["Blocks", "Layout"]

Write = Callable[[Tensor, Tensor, Tensor], None]
"""Writes keys and values (n, H, D) of n positions into slots (n,), as the engine does itself."""

_BASE = 128
"""Digits are 1 to 128, which every floating type of 16 bits holds exactly."""


class Blocks(NamedTuple):
    """The blocks of a layer: their number, the slots of each, and the heads and their width."""

    number: int
    size: int
    heads: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where a layer's memory keeps the numbers of a block.

    dim: the dimension of the memory that counts blocks. index: (2, T, H, D), the place of each key
    and value of a block of T slots in what is left of the memory when one block is taken out.

    >>> memory = torch.zeros(4, 2, 3, 1, 5)  # blocks, keys and values, slots, heads, width
    >>> def write(keys, values, slots):
    ...     memory[slots // 3, :, slots % 3] = torch.stack((keys, values), 1)
    >>> layout = Layout.learn(memory, write, Blocks(number=4, size=3, heads=1, width=5))
    >>> layout.dim, layout.index.flatten().equal(torch.arange(30))
    (0, True)
    """

    blocks: Blocks
    dim: int
    index: Tensor

    @classmethod
    def learn(cls, memory: Tensor, write: Write, blocks: Blocks) -> Layout:
        """Find the layout of a memory that holds nothing yet. It is left filled with zeros.

        Raises `IncompatibleModels` unless what is read is, number for number, what was written.
        """
        if memory.dtype.is_floating_point and memory.dtype.itemsize > 1:
            for dim, size in enumerate(memory.shape):
                if size == blocks.number:
                    index = _found(memory, dim, write, blocks)
                    if index is not None and (layout := cls(blocks, dim, index)).holds(
                        memory, write
                    ):
                        return layout
        raise IncompatibleModels(
            f"the engine keeps keys and values as {memory.dtype} in {tuple(memory.shape)}, from "
            "which they cannot be read back as they were written. Use kv_cache_dtype='auto' and a "
            "model whose layers keep plain keys and values, or load it as a Backbone"
        )

    def holds(self, memory: Tensor, write: Write) -> bool:
        """Whether a memory has this layout, in its second and its last block. Both become zeros."""
        size, (_, *shape) = self.blocks.size, self.index.shape
        chosen = [1, self.blocks.number - 1]
        drawn = torch.randint(1, _BASE, (2, 2, *shape), generator=torch.Generator().manual_seed(0))
        given = drawn.to(memory.dtype)
        for block, (keys, values) in zip(chosen, given, strict=True):
            write(keys.to(memory.device), values.to(memory.device), _slots(block, size))
        read = self.read(memory, chosen, 2 * size)
        for block in chosen:
            memory.select(self.dim, block).zero_()
        wanted = (side.flatten(0, 1).transpose(0, 1)[None] for side in given.unbind(1))
        return all(torch.equal(a, b) for a, b in zip(read, wanted, strict=True))

    def read(self, memory: Tensor, chosen: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """Keys and values (1, H, S, D) of the first S slots of some blocks, on the CPU."""
        places = torch.tensor(chosen, device=memory.device)
        whole = memory.index_select(self.dim, places).movedim(self.dim, 0).flatten(1)
        index = self.index.to(memory.device).flatten()
        parts = whole.index_select(1, index).view(len(chosen), *self.index.shape)
        keys, values = parts.transpose(0, 1).flatten(1, 2)[:, :count].transpose(1, 2).cpu()
        return keys[None].contiguous(), values[None].contiguous()


def _slots(block: int, size: int) -> Tensor:
    return block * size + torch.arange(size)


def _found(memory: Tensor, dim: int, write: Write, blocks: Blocks) -> Tensor | None:
    """The place of every number of a block (2, T, H, D), None if they are not all found."""
    shape = (2, blocks.size, blocks.heads, blocks.width)
    numbers = torch.arange(2 * blocks.size * blocks.heads * blocks.width).view(shape)
    place = memory.select(dim, 1)
    found = torch.zeros(place.numel(), dtype=torch.long)
    real = torch.ones(place.numel(), dtype=torch.bool)
    scale = 1
    while scale < numbers.numel():
        digit = (numbers // scale % _BASE + 1).to(memory)
        place.zero_()
        write(digit[0], digit[1], _slots(1, blocks.size))
        held = place.flatten().double().cpu()
        real &= (held >= 1) & (held <= _BASE) & (held == held.round())
        found += scale * (held.clamp(1, _BASE).long() - 1)
        scale *= _BASE
    place.zero_()
    places = real.nonzero().flatten()
    if not torch.equal(found[places].sort().values, numbers.flatten()):
        return None
    index = torch.empty_like(numbers).flatten()
    index[found[places]] = places
    return index.view(shape)
