"""Free vectors: a soft prompt, or a message without a sender."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unspoken.projectors.base import Projector
from unspoken.types import Vectors

__all__ = ["FreeVectors"]


class FreeVectors(Projector):
    """n vectors (n, W) in a model's embedding space, the same for every row.

    Prompt tuning (arXiv 2104.08691). They are drawn with an RMS of `scale`, or start from words.
    """

    def __init__(
        self, *, count: int, width: int, scale: float = 1.0, target_weights: str = ""
    ) -> None:
        super().__init__()
        self.count, self.width, self.target_weights = count, width, target_weights
        self.values = nn.Parameter(torch.randn(count, width) * scale)

    def start_from(self, values: Tensor) -> None:
        """Begin at `values` (n, W), usually embeddings of words."""
        with torch.no_grad():
            self.values.copy_(values)

    def forward(self, batch: int) -> Vectors:
        values = self.values.expand(batch, -1, -1)
        return Vectors(values, values.new_ones(batch, self.count, dtype=torch.bool))
