"""How a moved cache differs from one read in its place, learned from texts that have both.

Keys are compared un-rotated, so that an offset serves at any position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Lesson", "MeanOffset"]


class Lesson(NamedTuple):
    """A text's cache as it was kept and as it was read: (L, 2, H, n, D), keys un-rotated.

    behind: the same two for the fixed text after it, (L, 2, H, m, D), if that is moved too.
    """

    base: Tensor
    exact: Tensor
    behind: tuple[Tensor, Tensor] | None = None


@dataclass(slots=True)
class MeanOffset:
    """One mean offset for all tokens of a text: a vector per layer, head and side (rank 1).

    The mean over tokens has low noise after a single read. Offsets token by token would follow the
    words of the texts they came from.
    """

    total: Tensor
    tokens: int = 0
    used: int = 0

    @classmethod
    def like(cls, base: Tensor) -> MeanOffset:
        return cls(base.new_zeros((*base.shape[:3], 1, base.shape[4]), dtype=torch.float32))

    @property
    def bytes(self) -> int:
        return self.total.nbytes

    def learn(self, lesson: Lesson) -> None:
        self.total = self.total + (lesson.exact - lesson.base).float().sum(3, keepdim=True)
        self.tokens += lesson.base.shape[3]

    def correct(self, base: Tensor) -> Tensor:
        """(L, 2, H, 1, D): what to add to a base."""
        return (self.total / max(self.tokens, 1)).to(base.dtype)
