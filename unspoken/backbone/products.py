# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Matrix products of few rows, in the order that is fast on a CPU. The weights stay as they are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["FewRows", "few_tokens", "in_few_tokens", "multiply_few"]

_MOST = 64

_few = ContextVar("_few", default=False)


@contextmanager
def few_tokens() -> Generator[None]:
    """While it is on, this thread reads few tokens, perhaps after a long cache.

    Attention and matrix products go ways that are cheaper then. What comes out differs by rounding.
    """
    token = _few.set(True)
    try:
        yield
    finally:
        _few.reset(token)


def in_few_tokens() -> bool:
    """Whether it is on."""
    return _few.get()


class FewRows(torch.nn.Linear):
    """A linear layer that within `few_tokens` computes (W x^T)^T instead of x W^T.

    Both are the same sums. For the second one a CPU's library turns all weights around first, which
    takes longer than a product of few rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // input.shape[-1]
        few = 1 < rows <= _MOST and _few.get() and self.weight.device.type == "cpu"
        if not few or torch.is_grad_enabled():
            return super().forward(input)
        out = torch.mm(self.weight, input.reshape(rows, -1).t()).t()
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, input.shape[:-1])


def multiply_few(model: Any) -> None:
    """Let the linear layers of a model multiply few rows so. Those of other classes stay."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = FewRows
