"""Moving a cache to other positions, by rotation of its keys."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import torch
from torch import Tensor

from unspoken import rope
from unspoken.backbone.once import once
from unspoken.backbone.passes import Passes
from unspoken.backbone.proofs import moves, rotary, turns_by_length
from unspoken.errors import IncompatibleModels
from unspoken.types import KV

__all__ = ["Moving"]


class Moving(Passes):
    """A model whose keys turn by their position, if the proof on it passes."""

    def shift(self, kv: KV, by: int | Tensor) -> KV:
        """Move a cache by `by` positions (one number, or one for each row): keys re-rotated.

        Raises `IncompatibleModels` when this model's keys cannot be moved by rotation.
        """
        by = torch.as_tensor(by, device=self.device).expand(kv[0][0].shape[0])
        return rope.rotate(kv, by, self.frequencies) if bool(by.any()) else kv

    @property
    def frequencies(self) -> list[Tensor]:
        """L tensors of rotary frequencies. Proved on this model: moved keys equal read ones."""
        return self._turns

    @once
    def _turns(self) -> list[Tensor]:
        turning = self.keeps and not turns_by_length(self.body)
        found = rotary(self.body, len(self.shapes)) if turning else None
        if found is None or not moves(self.body, found, self.dtype, self.facts.positions):
            raise IncompatibleModels(
                f"the keys of {self.name!r} cannot be moved to another position: they do not turn "
                "by plain rotary embedding. Put the cache first in the prompt"
            )
        return found
