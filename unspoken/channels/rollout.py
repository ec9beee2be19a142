"""Latent steps before the hand-over: the sender goes on in vectors, and its cache includes them.

LatentMAS, arXiv 2511.20639: e_{t+1} = h_t W_a, for m steps. Then the whole cache is handed over.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from unspoken.channels.handoff import Handoff
from unspoken.channels.sender_state import SenderState
from unspoken.errors import require
from unspoken.protocols import Model, rolls_out
from unspoken.types import CacheSegment, Need, is_count

__all__ = ["LatentRollout"]


class LatentRollout(Handoff):
    """The sender's cache of S positions read and m latent ones: L x (B, H, S + m, D).

    The receiver has the same weights and takes it in as a hand-over. A latent position is one
    forward pass; no vocabulary is computed and no word is chosen.

    steps: m. align: the map from a last hidden state to the next input, the paper's `ridge` or
    `identity`, both at the mean norm of an input embedding. With tied embeddings they are equal.
    opening: as in `Handoff`.
    """

    name: ClassVar[str] = "rollout"

    def __init__(
        self,
        *,
        steps: int = 10,
        align: Literal["identity", "ridge"] = "ridge",
        opening: bool = True,
    ) -> None:
        require(is_count(steps), "steps", steps, "a whole number above 0")
        require(align in ("identity", "ridge"), "align", align, "'identity' or 'ridge'")
        super().__init__(opening=opening)
        self.steps = steps
        self.align: Literal["identity", "ridge"] = align

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({self._rollout})

    @property
    def _rollout(self) -> Need:
        return Need("rollout", limit=self.steps, feed=self.align)

    def ask(self, sender: Model, receiver: Model) -> None:
        super().ask(sender, receiver)
        rolls_out(sender, "a rollout goes on in vectors")

    def _memory(self, state: SenderState) -> CacheSegment | None:
        return state.rollouts[self._rollout].cached
