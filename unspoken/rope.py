"""Re-rotation of keys: moving a cache to another position (RoFormer, arXiv 2104.09864, eq. 34).

Rotations add, R(a) R(b) = R(a + b), so a key that was stored at position p is moved to p + d by
rotating it once more by d. YaRN's attention scaling is already in the stored key and stays as is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unspoken.types import KV

__all__ = ["rotate", "turn"]


def rotate(kv: KV, by: Tensor, frequencies: Sequence[Tensor]) -> KV:
    """Rotate the keys of every layer by `by` positions: one number per row, or per position.

    kv: L x (B, H, S, D). by: (B,) or (B, S), positions; negative moves to the left. frequencies: L
    tensors (R/2,) in radians per position, R <= D being the width that the model rotates.
    """
    by = by[:, None] if by.ndim == 1 else by
    turned: dict[int, tuple[Tensor, Tensor]] = {}
    for frequency in frequencies:
        if id(frequency) not in turned:
            angle = by[..., None].double() * frequency.double()
            angle = torch.cat((angle, angle), -1)[:, None]
            turned[id(frequency)] = (angle.cos().float(), angle.sin().float())
    return tuple(
        (_turn(keys, *turned[id(frequency)]), values)
        for (keys, values), frequency in zip(kv, frequencies, strict=True)
    )


def _turn(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    part, rest = keys[..., :width].float(), keys[..., width:]
    left, right = part.chunk(2, -1)
    part = part * cos + torch.cat((-right, left), -1) * sin
    return torch.cat((part.to(keys.dtype), rest), -1)


def turn(keys: Tensor, by: Tensor, frequencies: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate the keys (L, H, n, D) of all layers by `by` (n,) positions, into `out` if given.

    frequencies: (L, R/2), as in `rotate`, stacked, or (1, R/2) if they are equal in all layers.
    Rotation by a token's position, negated, gives the key without its position. Rotation by another
    position puts it there.
    """
    out = torch.empty_like(keys) if out is None else out
    angle = by[:, None].double() * frequencies[:, None, None].double()
    cos, sin = angle.cos().float(), angle.sin().float()
    half = frequencies.shape[-1]
    left, right = keys[..., :half].float(), keys[..., half : 2 * half].float()
    _turned(left, right, cos, -sin, out[..., :half])
    _turned(right, left, cos, sin, out[..., half : 2 * half])
    if 2 * half < keys.shape[-1]:
        out[..., 2 * half :] = keys[..., 2 * half :]
    return out


def _turned(one: Tensor, other: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """one * cos + other * sin, computed in float32."""
    exact = out if out.dtype == one.dtype else torch.empty_like(one)
    torch.mul(one, cos, out=exact).addcmul_(other, sin)
    if exact is not out:
        out.copy_(exact)
