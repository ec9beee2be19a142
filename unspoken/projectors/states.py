"""What maps a sender's hidden states to vectors that a receiver reads like words."""

from __future__ import annotations

from unspoken.projectors.base import Projector
from unspoken.types import Vectors

__all__ = ["StateProjector"]


class StateProjector(Projector):
    """States (B, S, N, W of the sender) of N layers to vectors (B, S', W of the receiver).

    layers: which hidden states it reads, as in `Need`. The fingerprints say which models it is for.
    """

    source_width: int
    target_width: int
    layers: tuple[int, ...]
    source_weights: str
    target_weights: str
    source_tokenizer: str
    target_tokenizer: str

    def front_vectors(self, batch: int) -> Vectors | None:
        """Vectors (B, n, W of the receiver) before every message, which stay with the receiver."""
        return None

    def forward(self, states: Vectors) -> Vectors:
        raise NotImplementedError
