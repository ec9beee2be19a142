"""Sender states to vectors that a receiver reads like words.

Planner and Executor (arXiv 2510.15244): Linear-GELU-Linear-RMSNorm, both models frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unspoken.projectors.states import StateProjector
from unspoken.types import Vectors

__all__ = ["EmbeddingProjector"]

_PACE = 10.0
"""Adam moves every number by about the learning rate, and free vectors want ten times that."""


class EmbeddingProjector(StateProjector):
    """Map states (B, S, N, W of the sender) of N layers to vectors (B, S', W of the receiver).

    One vector for each sender position, S' = S. With `vectors`, a fixed number S' = vectors by
    attention pooling with learned queries.

    `prompt` is the number of free vectors before every message. They stay with the receiver, and
    carry what it has to know about messages in general; see `front_vectors`.

    layers: which hidden states are read, 0 being the sender's embeddings. Several are
    concatenated. Each of their dimensions is standardised by what `calibrate` saw, because a few
    dimensions of a residual stream dwarf the rest. scale: the initial RMS of a vector, that of the
    receiver's embeddings. The fingerprints say what it is trained with.

    >>> projector = EmbeddingProjector(source_width=8, target_width=4, layers=[0, 2], hidden=16)
    >>> states = Vectors(torch.zeros(1, 5, 2, 8), torch.ones(1, 5, dtype=torch.bool))
    >>> projector(states).values.shape
    torch.Size([1, 5, 4])
    """

    recipe = "relay_projector"

    def __init__(
        self,
        *,
        source_width: int,
        target_width: int,
        layers: Sequence[int] = (-1,),
        hidden: int = 1024,
        vectors: int | None = None,
        prompt: int = 0,
        scale: float = 1.0,
        source_weights: str = "",
        target_weights: str = "",
        source_tokenizer: str = "",
        target_tokenizer: str = "",
    ) -> None:
        super().__init__()
        self.source_width, self.target_width = source_width, target_width
        self.layers, self.vectors = tuple(layers), vectors
        self.source_weights, self.target_weights = source_weights, target_weights
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        width = source_width * len(self.layers)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.pool = _Pool(width, vectors) if vectors else None
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, target_width)
        self.norm = nn.RMSNorm(target_width, eps=1e-6)
        nn.init.constant_(self.norm.weight, scale)
        self.prompt = nn.Parameter(torch.randn(prompt, target_width) * scale / _PACE)

    mean: Tensor
    spread: Tensor

    def front_vectors(self, batch: int) -> Vectors:
        """The free vectors (B, n, W of the receiver) that come before every message."""
        values = (_PACE * self.prompt).expand(batch, -1, -1)
        return Vectors(values, values.new_ones(values.shape[:2], dtype=torch.bool))

    def start_from(self, values: Tensor) -> None:
        """Let the free vectors begin at `values` (n, W of the receiver): embeddings of words."""
        with torch.no_grad():
            self.prompt.copy_(values / _PACE)

    def calibrate(self, states: Tensor) -> None:
        """Set mean and spread of every dimension from sample states (n, N, W of the sender)."""
        flat = states.float().flatten(1)
        self.mean.copy_(flat.mean(0))
        self.spread.copy_(flat.std(0).clamp(min=1e-4))

    def forward(self, states: Vectors) -> Vectors:
        values = (states.values.float().flatten(2) - self.mean) / self.spread
        values, mask = values.clamp(-20, 20), states.mask
        if self.pool is not None:
            values = self.pool(values, mask)
            mask = mask.new_ones(values.shape[:2])
        values = self.outer(nn.functional.gelu(self.inner(values)))
        return Vectors(self.norm(values.float()), mask)  # autocast leaves its weight in float32


class _Pool(nn.Module):
    """Attention pooling: n learned queries over the positions, (B, S, W) to (B, n, W)."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(vectors, width) * width**-0.5)
        self.keys = nn.Linear(width, width, bias=False)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        queries = self.queries.expand(values.shape[0], -1, -1)
        return nn.functional.scaled_dot_product_attention(
            queries, self.keys(values), values, attn_mask=mask[:, None, :]
        )
