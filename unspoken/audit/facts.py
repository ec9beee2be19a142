"""What a message is, without any model: its header, its sizes, its norms."""

from __future__ import annotations

from math import isfinite
from typing import Any, cast

from torch import Tensor

from unspoken.types import CacheSegment, Text, Vectors
from unspoken.wire import Message

__all__ = ["describe"]


def describe(message: Message) -> dict[str, Any]:
    """Header, layout, bytes on the wire, and norms: of each vector, or of each layer's cache.

    norms: Euclidean, mean over real positions (and heads), None where one is not finite. odd: how
    many numbers are not finite.

    >>> from unspoken.wire import Header
    >>> header = Header(channel="text", sender="planner", weights="w", tokenizer="t")
    >>> describe(Message(header, Text(("hi",))))["words"]
    ['hi']
    """
    layout = message.layout
    facts: dict[str, Any] = {
        "header": message.header.model_dump(mode="json", exclude_defaults=True),
        "layout": layout.model_dump(mode="json", exclude_defaults=True),
        "bytes": message.nbytes,
        "bytes_unpacked": layout.size,
        "rows": message.batch,
    }
    match message.payload:
        case Text(words):
            facts["words"] = list(words)
        case Vectors(values, mask):
            facts["norms"] = [
                [_rounded(n) for n in _norms(row[real])]
                for row, real in zip(values.detach(), mask, strict=True)
            ]
            facts["odd"] = _odd(values)
        case CacheSegment(cache, mask, _, spelling):
            kv = cache.kv()
            facts["norms"] = {
                "keys": [_norm(keys, mask) for keys, _ in kv],
                "values": [_norm(values, mask) for _, values in kv],
            }
            facts["odd"] = sum(_odd(tensor) for pair in kv for tensor in pair)
            if spelling is not None:
                facts["words"] = list(spelling.words)
    return facts


def _norm(tensor: Tensor, mask: Tensor) -> float | None:
    """The mean norm at real positions of (B, H, S, D); None if there are none."""
    norms = _norms(tensor.transpose(1, 2)[mask].flatten(0, -2))
    return _rounded(sum(norms) / len(norms)) if norms else None


def _rounded(norm: float) -> float | None:
    """None for a norm that is not finite, which JSON has no word for."""
    return round(norm, 4) if isfinite(norm) else None


def _norms(rows: Tensor) -> list[float]:
    """The norm of each row of (N, D)."""
    return cast(list[float], rows.detach().float().square().sum(-1).sqrt().tolist())


def _odd(tensor: Tensor) -> int:
    return int((~tensor.isfinite()).sum())
