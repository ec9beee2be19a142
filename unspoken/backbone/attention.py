"""Which positions a pass over a model attends to, without changing the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

__all__ = ["Attention"]


class Attention(TorchFunctionMode):
    """While it is on, adds up the attention that each slot of a cache gets, in this thread only.

    paid: (B, S), summed over layers, heads and the tokens that are read.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.paid = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            query, key = args[:2]
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            scores = query @ key.mT * scale + kwargs["attn_mask"]
            self.paid += scores.float().softmax(-1).sum((1, 2))
        return func(*args, **kwargs)
