"""The frozen sender's states, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save

from unspoken.agents import Agent
from unspoken.files import write_bytes
from unspoken.pipeline import Query, fields_of
from unspoken.types import Need, Thought, Vectors, left_pad

__all__ = ["StoredThoughts"]

_SHARD = 256  # items a file, so that memory stays bounded


class StoredThoughts:
    """What a sender thinks of each query: states (S, N, W) of some layers, bfloat16, in shards.

    Computed when missing, a shard at a time, each written atomically; a killed run goes on with the
    next shard. The folder's name identifies weights, role, layers and queries.
    """

    def __init__(
        self, sender: Agent, queries: Sequence[Query], layers: Sequence[int], folder: Path
    ) -> None:
        self.sender, self.queries, self.layers = sender, queries, tuple(layers)
        fields = fields_of(queries)
        before, after = sender.role.render(fields)
        self.texts = [b + a for b, a in zip(before, after, strict=True)]
        backbone, role = sender.backbone, sender.role
        frame = [backbone.fingerprint, str(backbone.dtype), role.lead, role.chat]
        key = json.dumps([*frame, self.layers, self.texts])
        self.folder = folder / sha256(key.encode()).hexdigest()[:16]
        starts = range(0, len(queries), _SHARD)
        missing = [n for n in starts if not self._path(n).exists()]
        console = Console(stderr=True)
        hidden = not missing
        for start in track(
            missing, "sender states", console=console, disable=hidden, transient=True
        ):
            self._compute(start)
        self._open = {start: safe_open(self._path(start), "pt") for start in starts}  # pyright: ignore

    def __len__(self) -> int:
        return len(self.queries)

    def __call__(self, rows: Sequence[int]) -> Thought:
        """The thought about some queries, as the sender would have it."""
        states = self.states(rows)
        backbone = self.sender.backbone
        return Thought(
            agent=self.sender.name,
            spec=backbone.spec,
            given=tuple(self.texts[row] for row in rows),
            shorten=backbone.shorten,
            shift=backbone.shift,
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
        device = self.sender.backbone.device
        return Vectors(values.to(device), mask.to(device))

    def _path(self, start: int) -> Path:
        return self.folder / f"states-{start:06}.safetensors"

    @torch.no_grad()
    def _compute(self, start: int) -> None:
        rows = range(start, min(start + _SHARD, len(self.queries)))
        order = sorted(rows, key=lambda row: len(self.texts[row]))
        needs = frozenset(Need("hidden", layer) for layer in self.layers)
        tensors: dict[str, torch.Tensor] = {}
        for n in range(0, len(order), 16):
            batch = order[n : n + 16]
            read = self.sender.hear(fields_of([self.queries[row] for row in batch]), needs=needs)
            hidden = [read.hidden[layer] for layer in self.layers]
            values = torch.stack([state.values for state in hidden], 2).bfloat16().cpu()
            for row, value, mask in zip(batch, values, hidden[0].mask.cpu(), strict=True):
                tensors[str(row)] = value[mask].contiguous()
        write_bytes(self._path(start), save(tensors))
