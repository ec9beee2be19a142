"""The frozen sender's states, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unspoken import kept
from unspoken.agents import Agent
from unspoken.channels.sender_state import SenderState
from unspoken.errors import Damaged
from unspoken.identity import digest
from unspoken.pipeline import Query, fields_of
from unspoken.protocols import device_of
from unspoken.terminal import track
from unspoken.types import Need, Vectors, left_pad

__all__ = ["StoredStates"]

_KIND = "states"
_SHARD = 256  # items a file, so that memory is bounded


class StoredStates:
    """What a sender computes for each query: states (S, N, W) of some layers, bfloat16, in shards.

    Computed when missing, a shard at a time, each written atomically. A killed run goes on with the
    next shard. The folder's name identifies weights, role, layers and queries, and also the
    settings of a sender whose states are those of what it writes. A damaged shard is moved aside
    and computed again, with a warning. texts: the words whose
    positions the states are, read or written.
    """

    def __init__(
        self, sender: Agent, queries: Sequence[Query], layers: Sequence[int], folder: Path
    ) -> None:
        self.sender, self.queries, self.layers = sender, queries, tuple(layers)
        fields = fields_of(queries)
        before, after = sender.role.render(fields)
        self.texts = [b + a for b, a in zip(before, after, strict=True)]
        spec, role = sender.spec, sender.role
        frame = [spec.weights, f"torch.{spec.dtype}", role.instructions, role.chat]
        self.writes = sender.spec.states == "written"
        if self.writes:
            frame.append(repr(sender.settings))
        self.folder = folder / digest([*frame, self.layers, self.texts])[:16]
        starts = range(0, len(queries), _SHARD)
        missing = [n for n in starts if not self._path(n).exists()]
        for start in track(missing, "sender states", disable=not missing):
            self._compute(start)
        self._shards = {start: self._sound(start) for start in starts}
        if self.writes:
            self.texts = [
                text for shard in self._shards.values() for text in shard.content["texts"]
            ]

    def __len__(self) -> int:
        return len(self.queries)

    def __call__(self, rows: Sequence[int]) -> SenderState:
        """The state for some queries, as the sender computes it."""
        states = self.states(rows)
        return SenderState(
            agent=self.sender.name,
            model=self.sender.model,
            given=tuple(self.texts[row] for row in rows),
            hidden={
                layer: Vectors(states.values[:, :, n], states.mask)
                for n, layer in enumerate(self.layers)
            },
        )

    def states(self, rows: Sequence[int]) -> Vectors:
        """States (B, S, N, W) of some queries, padded left."""
        found: list[torch.Tensor] = [
            self._shards[row // _SHARD * _SHARD].tensors[str(row)] for row in rows
        ]
        values, mask = left_pad(found)
        device = device_of(self.sender.model)
        return Vectors(values.to(device), mask.to(device))

    def _path(self, start: int) -> Path:
        return self.folder / f"states-{start:06}.safetensors"

    def _name(self, start: int) -> str:
        return f"{self.folder.name}/{start}"

    def _rows(self, start: int) -> range:
        return range(start, min(start + _SHARD, len(self.queries)))

    def _sound(self, start: int) -> kept.Tensors:
        """The content of a shard, which is computed again if it is damaged."""
        try:
            return self._read(start)
        except Damaged as error:
            kept.set_aside(self._path(start), error)
            self._compute(start)
            return self._read(start)

    def _read(self, start: int) -> kept.Tensors:
        path, rows = self._path(start), self._rows(start)
        found = kept.load(path, _KIND)
        kept.check_keys(found.content, ("of", "lengths", "texts"), path)
        if found.content["of"] != self._name(start):
            raise Damaged(f"{path} holds {found.content['of']} instead")
        if self.writes and len(found.content["texts"]) != len(rows):
            raise Damaged(f"{path} is damaged: it has not one text for each of {len(rows)} rows")
        after = (len(self.layers), self.sender.spec.width)
        sizes = zip(rows, found.content["lengths"], strict=True)
        wanted = {str(row): (size, *after) for row, size in sizes}
        kept.check_tensors(found.tensors, wanted, path)
        return found

    @torch.no_grad()
    def _compute(self, start: int) -> None:
        rows = self._rows(start)
        order = sorted(rows, key=lambda row: len(self.texts[row]))
        needs = frozenset(Need("hidden", layer) for layer in self.layers)
        tensors: dict[str, torch.Tensor] = {}
        texts: dict[str, str] = {}
        for n in range(0, len(order), 16):
            batch = order[n : n + 16]
            state, _ = self.sender.compute(
                fields_of([self.queries[row] for row in batch]), needs=needs
            )
            hidden = [state.hidden[layer] for layer in self.layers]
            values = torch.stack([layer.values for layer in hidden], 2).bfloat16().cpu()
            for row, value, mask in zip(batch, values, hidden[0].mask.cpu(), strict=True):
                tensors[str(row)] = value[mask].contiguous()
            for row, words in zip(batch, state.text or (), strict=False):
                count, held = len(self.sender.model.tokens(words)), len(tensors[str(row)])
                texts[str(row)] = words if held - 1 <= count <= held else ""  # else not aligned
        spoken = [texts[str(row)] for row in rows] if texts else None
        lengths = [len(tensors[str(row)]) for row in rows]
        about = {"of": self._name(start), "lengths": lengths, "texts": spoken}
        kept.save(self._path(start), _KIND, about, tensors)
