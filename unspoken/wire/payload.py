"""Payloads as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from typing import cast

import torch
from torch import Tensor

from unspoken.errors import NotFinite, WireError
from unspoken.finite import all_finite
from unspoken.types import CacheSegment, KVCache, Segment, Spelling, Text, Vectors, counted
from unspoken.wire.compression import LOSSLESS, Packing
from unspoken.wire.header import (
    DTYPES,
    CacheLayout,
    DType,
    LayerRun,
    Layout,
    TextLayout,
    VectorsLayout,
)

__all__ = ["layout_of", "numbers_of", "packed_row", "payload_from", "tensors_of"]

_TYPES: dict[torch.dtype, DType] = {dtype: name for name, dtype in DTYPES.items()}


def layout_of(payload: Segment, packing: Packing = LOSSLESS) -> Layout:
    """What the payload holds. Raises `WireError` for a type that cannot be sent."""
    if isinstance(payload, Text):
        return TextLayout(kind="text", words=_lengths(payload.words))
    counts = tuple(cast(list[int], payload.mask.sum(1).tolist()))
    length = payload.mask.shape[1]
    if isinstance(payload, Vectors):
        return VectorsLayout(
            kind="vectors",
            length=length,
            positions=counts,
            width=payload.values.shape[2],
            dtype=_type(payload.values),
            packing=packing,
        )
    spelling = payload.spelling
    return CacheLayout(
        kind="memory",
        length=length,
        positions=counts,
        layers=_runs(payload),
        words=_lengths(spelling.words) if spelling else (),
        begin=spelling.begin if spelling else 0,
        compact=_compact(payload),
        packing=packing,
    )


def _runs(payload: CacheSegment) -> tuple[LayerRun, ...]:
    shapes: list[tuple[int, tuple[int, int], tuple[DType, DType]]] = [
        (k.shape[1], (k.shape[3], v.shape[3]), (_type(k), _type(v))) for k, v in payload.kv
    ]
    return tuple(
        LayerRun(count=len(list(run)), heads=heads, widths=widths, dtypes=dtypes)
        for (heads, widths, dtypes), run in groupby(shapes)
    )


def tensors_of(payload: Segment, layout: Layout) -> dict[str, Tensor]:
    """The tensors that are sent, as `layout.parts()` names them."""
    tensors = _beside(payload)
    if isinstance(payload, Text):
        return tensors
    mask, packing = payload.mask, layout.packing
    if packing.kind == "lossless":
        return tensors | {
            name: tensor
            for (name, _), tensor in zip(layout.planes(), _planes(payload), strict=True)
        }
    real = mask[:, None, :, None]
    planes = [tensor.detach().masked_fill(~real, 0) for tensor in _planes(payload)]
    if not all_finite(planes):
        raise NotFinite("numbers that are NaN or infinite cannot be packed")
    kept = packing.choose(_scores(payload, planes), mask)
    if kept is not None:
        tensors["kept"] = kept
    for (name, plane), tensor in zip(layout.planes(), planes, strict=True):
        ends = packing.encode(tensor, plane, kept)
        tensors |= {f"{name}.{end}": part for end, part in ends.items()}
    return tensors


def packed_row(
    tensors: Mapping[str, Tensor], layout: Layout, index: int, payload: Segment
) -> dict[str, Tensor]:
    """The tensors of row `index` of a packed message, whose payload is that row's."""
    found = _beside(payload)
    keep = tensors["mask"][index]
    if "kept" in tensors:
        found["kept"] = tensors["kept"][index : index + 1, keep]
    for name, plane in layout.planes():
        parts = {
            end: tensors[f"{name}.{end}"][index : index + 1] for end in layout.packing.parts(plane)
        }
        packed = layout.packing.row(parts, plane, keep)
        found |= {f"{name}.{end}": part for end, part in packed.items()}
    return found


def _beside(payload: Segment) -> dict[str, Tensor]:
    """The tensors besides the numbers: masks and words, which are never packed."""
    if isinstance(payload, Text):
        return {"words": _words_out(payload.words)}
    found = {"mask": payload.mask}
    if isinstance(payload, CacheSegment) and _compact(payload):
        found["positions"] = payload.positions.masked_fill(~payload.mask, 0).int()
    if isinstance(payload, CacheSegment) and payload.spelling is not None:
        found |= {"ends": payload.spelling.ends.int(), "words": _words_out(payload.spelling.words)}
    return found


def numbers_of(payload: Segment) -> list[Tensor]:
    """What a receiver computes with: vectors at real positions, a cache as a whole, no words."""
    match payload:
        case Text():
            return []
        case Vectors(values, mask):
            return [values[mask]]
        case CacheSegment():
            return _planes(payload)


def _planes(payload: Vectors | CacheSegment) -> list[Tensor]:
    """The tensors of the payload as (B, H, S, D), in the order of its layout."""
    if isinstance(payload, Vectors):
        return [payload.values[:, None]]
    return [tensor for pair in payload.kv for tensor in pair]


def _scores(payload: Vectors | CacheSegment, planes: Sequence[Tensor]) -> Tensor:
    """(B, S): large for positions that matter most. See `Tokens`."""
    if isinstance(payload, Vectors):
        return _norms(planes[0])
    return -torch.stack([_norms(keys) for keys in planes[::2] if keys.shape[1]]).sum(0)


def _norms(plane: Tensor) -> Tensor:
    """(B, S): Euclidean, mean over heads."""
    return plane.float().square().sum(-1).sqrt().mean(1)


def payload_from(tensors: Mapping[str, Tensor], layout: Layout) -> Segment:
    """The payload of tensors that have the layout's shapes. Their values are checked here."""
    if isinstance(layout, TextLayout):
        return Text(_words_in(tensors["words"], layout.words))
    mask = _flags(tensors["mask"], "mask")
    counts = tuple(cast(list[int], mask.sum(1).tolist()))
    if counts != layout.positions:
        raise WireError(f"the message claims {layout.positions} positions, but has {counts}")
    planes = _unpacked(tensors, layout, mask)
    if isinstance(layout, VectorsLayout):
        return Vectors(planes[0][:, 0], mask)
    spelling = None
    if layout.words:
        words = _words_in(tensors["words"], layout.words)
        spelling = Spelling(words, tensors["ends"].long(), layout.begin)
        _check_spelling(spelling, mask)
    kv = tuple(zip(planes[::2], planes[1::2], strict=True))
    positions = _positions(tensors["positions"], mask) if layout.compact else counted(mask)
    return CacheSegment(KVCache(kv), mask, positions, spelling)


def _unpacked(
    tensors: Mapping[str, Tensor], layout: VectorsLayout | CacheLayout, mask: Tensor
) -> list[Tensor]:
    packing = layout.packing
    if packing.kind == "lossless":
        return [tensors[name] for name, _ in layout.planes()]
    kept = _flags(tensors["kept"], "kept") if "kept" in tensors else None
    chosen = packing.choose(kept.float(), mask) if kept is not None else None
    if kept is not None and chosen is not None and not torch.equal(kept, chosen):
        raise WireError("the message does not keep as many positions of each row as it claims")
    planes: list[Tensor] = []
    for name, plane in layout.planes():
        parts = {end: tensors[f"{name}.{end}"] for end in packing.parts(plane)}
        planes.append(packing.decode(parts, plane, kept).to(mask.device))
    return planes


def _compact(cached: CacheSegment) -> bool:
    """Whether a cache has fewer slots than positions."""
    return bool(((cached.positions != counted(cached.mask)) & cached.mask).any())


def _positions(tensor: Tensor, mask: Tensor) -> Tensor:
    """Positions that grow from slot to slot in every row, from 0 or later."""
    found = tensor.long()
    before = torch.where(mask, found, -1).cummax(1).values[:, :-1]
    grows = (found[:, 1:] > before) | ~mask[:, 1:]
    if not bool(grows.all()) or bool((found < 0).any()):
        raise WireError("the positions of the message do not grow from slot to slot")
    return found


def _flags(tensor: Tensor, name: str) -> Tensor:
    """A boolean tensor, if its bytes are 0 and 1. torch takes other bytes for neither."""
    if tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise WireError(f"the {name} of the message holds bytes that are neither 0 nor 1")
    return tensor


def _check_spelling(spelling: Spelling, mask: Tensor) -> None:
    longest = torch.tensor([len(words) for words in spelling.words])[:, None]
    ends = spelling.ends
    right = (ends >= -1) & (ends <= longest) & (mask | (ends == -1))
    if not bool(right.all()) or spelling.begin > int(longest.min()):
        raise WireError("the message spells words that end where it has none")


def _lengths(words: Sequence[str]) -> tuple[int, ...]:
    return tuple(len(row.encode()) for row in words)


def _words_out(words: Sequence[str]) -> Tensor:
    raw = bytearray("".join(words).encode())
    return torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)


def _words_in(raw: Tensor, lengths: Sequence[int]) -> tuple[str, ...]:
    data = raw.numpy().tobytes()
    stops = list(accumulate(lengths, initial=0))
    try:
        rows = [data[a:b].decode() for a, b in pairwise(stops)]
    except UnicodeDecodeError as error:
        raise WireError(f"the words of the message are no UTF-8: {error}") from error
    return tuple(rows)


def _type(tensor: Tensor) -> DType:
    if tensor.dtype not in _TYPES:
        raise WireError(
            f"numbers of type {tensor.dtype} cannot be sent. A message has {', '.join(DTYPES)}"
        )
    return _TYPES[tensor.dtype]
