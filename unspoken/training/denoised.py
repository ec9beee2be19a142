"""What a masked-diffusion planner is trained for: the notes that it is to write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unspoken.agents import Agent
from unspoken.backbone import DiffusionBackbone
from unspoken.pipeline import Query, fields_of

__all__ = ["Denoised"]


class Denoised:
    """LLaDA's loss (arXiv 2502.09992, algorithm 2) on notes, mean per position, in nats.

    With a mask ratio t of U(0, 1), the cross-entropy of the masked positions over t and over the
    length of the canvas. The planner reads as it does in use. A note fills its canvas with ends, so
    that the planner learns where to stop. A note that is too long is cut. canvas: lengths, one
    after the other. The last `validation` rows are never trained on.
    """

    samples = 4  # of the mask ratio for each validation row, at least one of every canvas

    def __init__(
        self,
        planner: Agent,
        queries: Sequence[Query],
        notes: Sequence[str],
        *,
        canvas: Sequence[int],
        validation: int,
    ) -> None:
        assert isinstance(planner.model, DiffusionBackbone)
        self.planner, self.model = planner, planner.model
        self.queries, self.canvas = queries, tuple(canvas)
        self.notes = [self.model.tokens(note) for note in notes]
        self.size = len(queries) - validation

    def length(self, row: int) -> int:
        query = self.queries[row]
        return len(query) if isinstance(query, str) else sum(map(len, query.values()))

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        return self._score(rows, self.canvas[step % len(self.canvas)], step).mean()

    def validate(self, batch: int = 32) -> float:
        rows = sorted(range(self.size, len(self.queries)), key=self.length)
        scores = [
            self._score(rows[n : n + batch], self.canvas[seed % len(self.canvas)], seed)
            for seed in range(max(self.samples, len(self.canvas)))
            for n in range(0, len(rows), batch)
        ]
        return float(torch.cat(scores).mean())

    def _score(self, rows: Sequence[int], canvas: int, seed: int) -> Tensor:
        end = self.model.ends[0]
        notes = [(self.notes[row] + [end] * canvas)[:canvas] for row in rows]
        context = self.planner.read(fields_of([self.queries[row] for row in rows])).context
        return self.model.score(context, notes, seed=seed) / canvas
