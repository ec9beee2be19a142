"""The frozen sender's states, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save

from unspoken.agents import Agent
from unspoken.channels.sender_state import SenderState
from unspoken.files import write_bytes
from unspoken.identity import digest
from unspoken.pipeline import Query, fields_of
from unspoken.protocols import device_of
from unspoken.types import Need, Vectors, left_pad

__all__ = ["StoredStates"]

_SHARD = 256  # items a file, so that memory is bounded


class StoredStates:
    """What a sender computes for each query: states (S, N, W) of some layers, bfloat16, in shards.

    Computed when missing, a shard at a time, each written atomically. A killed run goes on with the
    next shard. The folder's name identifies weights, role, layers and queries, and also the
    settings of a sender whose states are those of what it writes. texts: the words whose
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
        console = Console(stderr=True)
        hidden = not missing
        for start in track(
            missing, "sender states", console=console, disable=hidden, transient=True
        ):
            self._compute(start)
        self._open = {start: safe_open(self._path(start), "pt") for start in starts}  # pyright: ignore
        if self.writes:
            texts: dict[str, str] = {}
            for shard in self._open.values():
                texts |= cast(dict[str, str], shard.metadata())
            self.texts = [texts[str(row)] for row in range(len(queries))]

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
            self._open[row // _SHARD * _SHARD].get_tensor(str(row)) for row in rows
        ]
        values, mask = left_pad(found)
        device = device_of(self.sender.model)
        return Vectors(values.to(device), mask.to(device))

    def _path(self, start: int) -> Path:
        return self.folder / f"states-{start:06}.safetensors"

    @torch.no_grad()
    def _compute(self, start: int) -> None:
        rows = range(start, min(start + _SHARD, len(self.queries)))
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
        write_bytes(self._path(start), save(tensors, texts or None))
