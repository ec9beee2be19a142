"""How the numbers of a message are packed: as they are, or smaller at some loss.

What is packed comes back in its old shape and type, so channels need not know about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd, prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from torch import Tensor

from unspoken.errors import IncompatibleModels

__all__ = [
    "LOSSLESS",
    "BFloat16",
    "Int4",
    "Int8",
    "Layers",
    "Lossless",
    "LowRank",
    "Packing",
    "Part",
    "Plane",
    "Tokens",
]


class Part(NamedTuple):
    """Type and shape of one tensor on the wire."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plane:
    """One tensor of a payload: (B, H, S, D).

    Vectors are one plane with H = 1. longest: the most real positions that a row has. layer: whose
    keys or values it holds, None for vectors.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    longest: int
    layer: int | None = None

    @property
    def numbers(self) -> int:
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.numbers * self.dtype.itemsize


class _Packing(BaseModel):
    """One way to pack planes. `parts`, `encode` and `decode` name the same tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kind = type(self).model_fields["kind"].default  # named even where defaults are left out
        return {"kind": kind, **handler(self)}

    def check(self, layers: int) -> None:
        """Raise `IncompatibleModels` if a cache of that many layers cannot be packed like this."""

    def choose(self, scores: Tensor, mask: Tensor) -> Tensor | None:
        """The positions (B, S) that are sent, None for all. scores (B, S): higher is kept."""
        return None

    def parts(self, plane: Plane) -> dict[str, Part]:
        """What `encode` gives, by the ends of the names."""
        raise NotImplementedError

    def room(self, plane: Plane) -> int:
        """Bytes that `decode` takes at most, what it gives included."""
        return plane.size

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        """The tensors that are sent for x (B, H, S, D), zero where there is padding."""
        raise NotImplementedError

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        """(B, H, S, D) in the plane's type."""
        raise NotImplementedError

    def row(self, parts: Mapping[str, Tensor], plane: Plane, keep: Tensor) -> dict[str, Tensor]:
        """The parts of one row without its padding. keep: (S,), its real positions."""
        return {name: part[:, :, keep] for name, part in parts.items()}


class Lossless(_Packing):
    """Every number as it is."""

    kind: Literal["lossless"] = "lossless"


class BFloat16(_Packing):
    """Every number with 8 bits of exponent and 8 of precision: 16 bits instead of 32."""

    kind: Literal["bf16"] = "bf16"

    def parts(self, plane: Plane) -> dict[str, Part]:
        return {"bf16": Part(torch.bfloat16, plane.shape)}

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        return {"bf16": x.bfloat16()}

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        return parts["bf16"].to(plane.dtype)


class _Quantised(_Packing):
    """x = low + step * code, with one `low` and one `step` for `group` channels of a position.

    Groups never span positions, so a row is packed the same whatever else is in its batch. Where
    `group` does not divide the D channels, their largest common divisor is taken.
    """

    bits: ClassVar[int]
    group: int = Field(default=32, ge=1, le=4096)

    def parts(self, plane: Plane) -> dict[str, Part]:
        *outer, width = plane.shape
        coded = (width * self.bits + 7) // 8
        return {
            "codes": Part(torch.uint8, (*outer, coded)),
            "scales": Part(torch.bfloat16, (*outer, width // self._size(width), 2)),
        }

    def room(self, plane: Plane) -> int:
        return plane.size + 20 * plane.numbers  # two sums in float32, scales, codes

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        most = (1 << self.bits) - 1
        grouped = self._grouped(x.float())
        low = _down(grouped.amin(-1))
        step = _up((grouped.amax(-1) - low.float()) / most)
        scale = step.float()[..., None].clamp(min=torch.finfo(torch.float32).tiny)
        codes = ((grouped - low.float()[..., None]) / scale).round_().clamp_(0, most)
        codes = codes.to(torch.uint8).flatten(-2)
        return {
            "codes": _nibbles(codes) if self.bits == 4 else codes,
            "scales": torch.stack((low, step), -1),
        }

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        width = plane.shape[-1]
        codes = parts["codes"]
        codes = _bytes(codes, width) if self.bits == 4 else codes
        low, step = parts["scales"].float()[..., None].unbind(-2)
        return self._grouped(codes.float()).mul_(step).add_(low).flatten(-2).to(plane.dtype)

    def _grouped(self, x: Tensor) -> Tensor:
        size = self._size(x.shape[-1])
        return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)

    def _size(self, width: int) -> int:
        return gcd(self.group, width)


class Int8(_Quantised):
    """Eight bits a number, and 32 bits for each group of channels."""

    kind: Literal["int8"] = "int8"
    bits: ClassVar[int] = 8


class Int4(_Quantised):
    """Four bits a number, and 32 bits for each group of channels."""

    kind: Literal["int4"] = "int4"
    bits: ClassVar[int] = 4


class LowRank(_Packing):
    """The best approximation of rank `rank` to each row's (S, H D) matrix: a truncated SVD.

    Keys are packed as they are stored, after RoPE, which spreads them over more directions.
    """

    kind: Literal["low-rank"] = "low-rank"
    rank: int = Field(ge=1, le=65536)

    def parts(self, plane: Plane) -> dict[str, Part]:
        batch, heads, length, width = plane.shape
        rank = min(self.rank, plane.longest, heads * width)
        return {
            "left": Part(plane.dtype, (batch, length, rank)),
            "right": Part(plane.dtype, (batch, rank, heads * width)),
        }

    def room(self, plane: Plane) -> int:
        factors = sum(prod(part.shape) for part in self.parts(plane).values())
        return plane.size + 4 * (plane.numbers + factors)  # all in float32

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        shapes = self.parts(plane)
        if not x.numel():
            return {name: x.new_zeros(part.shape) for name, part in shapes.items()}
        rank = shapes["left"].shape[-1]
        rows = x.float().transpose(1, 2).flatten(2)
        svd = cast(tuple[Tensor, Tensor, Tensor], torch.linalg.svd(rows, full_matrices=False))
        left, right = svd[0][..., :rank] * svd[1][:, None, :rank], svd[2]
        return {"left": left.to(plane.dtype), "right": right[:, :rank].to(plane.dtype)}

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        flat = parts["left"].float() @ parts["right"].float()
        batch, heads, length, width = plane.shape
        return flat.view(batch, length, heads, width).transpose(1, 2).to(plane.dtype)

    def row(self, parts: Mapping[str, Tensor], plane: Plane, keep: Tensor) -> dict[str, Tensor]:
        rank = min(int(keep.sum()), parts["left"].shape[2])  # further directions have no strength
        return {"left": parts["left"][:, keep, :rank], "right": parts["right"][:, :rank]}


class Layers(_Packing):
    """A cache with the keys and values of only the named layers. The rest arrive as zeros."""

    kind: Literal["layers"] = "layers"
    layers: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=1024)], ...], FailFast(), Field(max_length=1024)
    ]

    def check(self, layers: int) -> None:
        if odd := sorted(n for n in self.layers if n >= layers):
            raise IncompatibleModels(
                f"the packing keeps layers {odd}, counted from 0, but what is packed has {layers}. "
                "Name layers of a cache, and use another packing for vectors"
            )

    def parts(self, plane: Plane) -> dict[str, Part]:
        if plane.layer is not None and plane.layer not in self.layers:
            return {}
        return {"kept": Part(plane.dtype, plane.shape)}

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        return {"kept": x} if self.parts(plane) else {}

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        return parts["kept"] if parts else torch.zeros(plane.shape, dtype=plane.dtype)


class Tokens(_Packing):
    """A share of each row's positions, at least one. The rest arrive as zeros at their positions.

    Of a cache, the positions with the smallest keys are kept, averaged over layers and heads. They
    are attended to most (arXiv 2406.11430, there for each head separately). Of vectors, the largest
    are kept. The first position is always kept.
    """

    kind: Literal["tokens"] = "tokens"
    share: float = Field(gt=0, le=1)

    def choose(self, scores: Tensor, mask: Tensor) -> Tensor | None:
        first = mask & (mask.long().cumsum(1) == 1)
        scores = scores.masked_fill(first, torch.inf).masked_fill(~mask, -torch.inf)
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        counts = [self._kept(n) for n in cast(list[int], mask.sum(1).tolist())]
        return rank < torch.tensor(counts, device=mask.device)[:, None]

    def parts(self, plane: Plane) -> dict[str, Part]:
        batch, heads, _, width = plane.shape
        return {"kept": Part(plane.dtype, (batch, heads, self._kept(plane.longest), width))}

    def encode(self, x: Tensor, plane: Plane, kept: Tensor | None) -> dict[str, Tensor]:
        assert kept is not None, "`choose` says which positions are sent"
        index, real = self._places(kept, plane)
        part = x.take_along_dim(index, 2)
        return {"kept": part.masked_fill(~real, 0)}

    def decode(self, parts: Mapping[str, Tensor], plane: Plane, kept: Tensor | None) -> Tensor:
        assert kept is not None, "`choose` says which positions are sent"
        index, _ = self._places(kept, plane)
        out = torch.zeros(plane.shape, dtype=plane.dtype, device=kept.device)
        return out.scatter_(2, index.expand_as(parts["kept"]), parts["kept"])

    def row(self, parts: Mapping[str, Tensor], plane: Plane, keep: Tensor) -> dict[str, Tensor]:
        count = self._kept(int(keep.sum()))
        return {"kept": parts["kept"][:, :, parts["kept"].shape[2] - count :]}

    def _places(self, kept: Tensor, plane: Plane) -> tuple[Tensor, Tensor]:
        """(B, 1, K, 1): the places of kept positions, in order and to the right; which are real."""
        count = self._kept(plane.longest)
        order = kept.int().argsort(dim=1, stable=True)[:, kept.shape[1] - count :]
        return order[:, None, :, None], kept.gather(1, order)[:, None, :, None]

    def _kept(self, positions: int) -> int:
        return ceil(self.share * positions)


Packing = Annotated[
    Lossless | BFloat16 | Int8 | Int4 | LowRank | Layers | Tokens, Field(discriminator="kind")
]
LOSSLESS = Lossless()


def _down(x: Tensor) -> Tensor:
    """bfloat16 not above x: what is counted from it then lies above it."""
    return (x - x.abs() * 2**-7).bfloat16()


def _up(x: Tensor) -> Tensor:
    """bfloat16 not below x, for x of 0 and more."""
    return (x * (1 + 2**-7)).bfloat16()


def _nibbles(codes: Tensor) -> Tensor:
    """Two codes of four bits in each byte."""
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _bytes(packed: Tensor, width: int) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)[..., :width]
