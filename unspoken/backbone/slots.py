# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The cache of a batch whose rows come and go: all rows end at the same slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from unspoken.backbone.caches import claimed
from unspoken.types import KV

__all__ = ["SlotCache"]

_BLOCK = 64


class SlotCache:
    """Keys and values of rows of unlike length, which end at the same slot of common tensors.

    A pass writes the next slot of every row in place. A row that joins is copied to where it ends
    with the others, and the last row takes the place of one that leaves: no other row is copied.
    Only when the slots run out are all rows copied, into tensors with room for half as many slots
    more, or for what is left to write.

    rooms: L x (keys, values), each (R, H, C, D), of which B rows and the slots from `start` to
    `end` are in use. lengths: the slots of each row. transformers counts windows and positions in
    slots, so all rows have padding on the left alone. A row that is alone at first goes on in the
    tensors that it was read into, if these have room: nothing of it is copied.
    """

    def __init__(self) -> None:
        self.rooms: list[tuple[Tensor, Tensor]] = []
        self.lengths: list[int] = []
        self.end = self.more = 0
        self.cache = DynamicCache()

    @property
    def start(self) -> int:
        """The first slot of the longest row."""
        return self.end - max(self.lengths, default=0)

    @property
    def mask(self) -> Tensor:
        """(B, W): which of the slots in use are real."""
        width, device = self.end - self.start, self.rooms[0][0].device
        begin = torch.tensor([width - length for length in self.lengths], device=device)
        return torch.arange(width, device=device) >= begin[:, None]

    def join(self, rows: Sequence[KV], more: int) -> None:
        """Take rows, each L x (1, H, n, D) of real slots, after those that are here.

        more: the most slots that one of them is going to fill.
        """
        longest = max(row[0][0].shape[2] for row in rows)
        count = len(self.lengths) + len(rows)
        self.more = max(self.more, more) if self.lengths else more
        if not self.lengths:
            self._begin(rows, longest)
        elif count > self.rooms[0][0].shape[0] or longest > self.end:
            self._move(max(count, 2 * len(self.lengths)), max(longest, self.end - self.start))
        for place, row in enumerate(rows, len(self.lengths)):
            for room, stored in zip(self.rooms, row, strict=True):
                for side, states in zip(room, stored, strict=True):
                    if side.data_ptr() != states.data_ptr():  # not in place already
                        side[place, :, self.end - states.shape[2] : self.end] = states[0]
        self.lengths += [row[0][0].shape[2] for row in rows]

    def leave(self, row: int) -> None:
        """Let a row go. The last one takes its place, and what is free is 0.

        A slot that nothing may see still counts if it is NaN: NaN times a weight of 0 is NaN.
        """
        last = len(self.lengths) - 1
        if last == 0:  # an idle model holds no memory
            self.lengths, self.rooms, self.cache = [], [], DynamicCache()
            return
        gone, kept = (slice(self.end - self.lengths[n], self.end) for n in (row, last))
        for side in (side for room in self.rooms for side in room):
            moved = side[last, :, kept].clone() if row < last else None
            side[row, :, gone] = 0
            if moved is not None:
                side[row, :, kept] = moved
                side[last, :, kept] = 0
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def make_room(self) -> None:
        """Add a slot to each row, which the pass that comes next fills."""
        if self.end == self.rooms[0][0].shape[2]:
            self._move(self.rooms[0][0].shape[0], self.end - self.start)
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def latest(self, row: int, count: int) -> KV:
        """A copy of a row's last slots, L x (1, H, count, D)."""
        own = slice(self.end - count, self.end)
        return tuple(
            (keys[row : row + 1, :, own].clone(), values[row : row + 1, :, own].clone())
            for keys, values in self.rooms
        )

    def _size(self, end: int) -> int:
        """The slots of tensors in which rows end at `end`."""
        return end + min(self.more, max(_BLOCK, end // 2))

    def _begin(self, rows: Sequence[KV], longest: int) -> None:
        size, self.end = self._size(longest), longest
        self.rooms = (len(rows) == 1 and claimed(rows[0])) or [
            (
                keys.new_zeros(len(rows), keys.shape[1], size, keys.shape[3]),
                values.new_zeros(len(rows), values.shape[1], size, values.shape[3]),
            )
            for keys, values in rows[0]
        ]
        self.cache = DynamicCache()
        self.cache.layers.extend(_SlotLayer(self, n) for n in range(len(rows[0])))

    def _move(self, count: int, end: int) -> None:
        """Copy all rows, so that they end at `end`, into tensors with room for more."""
        size, width = self._size(end), self.end - self.start
        rows, used = len(self.lengths), slice(self.start, self.end)

        def moved(old: Tensor) -> Tensor:
            new = old.new_zeros(count, old.shape[1], size, old.shape[3])
            new[:rows, :, end - width : end] = old[:rows, :, used]
            return new

        for n, (keys, values) in enumerate(self.rooms):  # a layer after the other, to save memory
            self.rooms[n] = moved(keys), moved(values)
        self.end = end


class _SlotLayer(DynamicLayer):
    """A layer whose next keys and values go into the last slot of each row."""

    def __init__(self, slots: SlotCache, number: int) -> None:
        super().__init__()
        self.slots, self.number = slots, number
        self.lazy_initialization(*slots.rooms[number])
        self.keys, self.values = slots.rooms[number]

    def get_seq_length(self) -> int:
        return self.slots.end - self.slots.start - 1

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        slots = self.slots
        rows, used = len(slots.lengths), slice(slots.start, slots.end)
        for room, states in zip(slots.rooms[self.number], (key_states, value_states), strict=True):
            room[:rows, :, slots.end - 1 : slots.end] = states
        self.keys, self.values = (room[:rows, :, used] for room in slots.rooms[self.number])
        return self.keys, self.values
