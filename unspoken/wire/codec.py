"""Tensors and a header to bytes and back, in the safetensors format: nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unspoken.errors import WireError

__all__ = ["pack", "packed_size", "unpack"]

_NAMES = {
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types that travel, in the order in which safetensors lays them out."""

_HEADER_LIMIT = 1 << 20


def pack(tensors: Mapping[str, Tensor], header: str) -> bytes:
    """Serialise tensors with a header string."""
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(data, {"header": header})


def packed_size(tensors: Mapping[str, Tensor], header: str) -> int:
    """Exactly `len(pack(tensors, header))`, in bytes, without serialising anything."""
    entries: dict[str, object] = {"__metadata__": {"header": header}}
    offset = 0
    order = list(_NAMES)
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0])
    ):
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    size = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + (size + 7) // 8 * 8 + offset


def unpack(data: bytes) -> tuple[dict[str, Tensor], str]:
    """The tensors and the header string. Raises `WireError` on anything that is not whole."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_HEADER_LIMIT, len(data) - 8):
        raise WireError(f"{len(data)} bytes are no message: its header claims {size} bytes")
    try:
        header = json.loads(data[8 : 8 + size])["__metadata__"]["header"]
        return load(data), str(header)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"these {len(data)} bytes are no whole message: {error}") from error
