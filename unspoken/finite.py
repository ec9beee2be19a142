"""Numbers that are NaN or infinite: found at the cost of one reduction, and named."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unspoken.errors import NotFinite

__all__ = ["all_finite", "no_words", "not_finite"]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite. Nothing is copied, and the device is asked once.

    >>> all_finite([torch.ones(2), torch.tensor([1.0, torch.nan])])
    False
    """
    ends = [end for one in tensors if one.numel() for end in torch.aminmax(one.detach())]
    return not ends or bool(torch.stack([end.to(ends[0].device) for end in ends]).isfinite().all())


def no_words(logits: Tensor) -> Tensor:
    """Where logits (..., V) give no likeliest word: one is NaN or inf, or all are -inf. Stays on
    the device. Single ones may be -inf, which a model says of words that it never writes.
    """
    return logits.detach().amax(-1) * 0 != 0  # of NaN and inf that is NaN: two steps, not six


def not_finite(whose: str, dtype: str) -> NotFinite:
    """The error for numbers of somebody. dtype: what they were computed in, '' if not known."""
    if dtype == "float16":
        remedy = (
            "it computes in float16, where numbers end at 65504: load it with dtype='bfloat16' or "
            "'float32'"
        )
    else:
        remedy = "check its weights, and the messages and projectors that reach it"
    return NotFinite(f"{whose} gives numbers that are NaN or infinite; {remedy}")
