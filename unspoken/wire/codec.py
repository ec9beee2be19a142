"""Tensors and a string to bytes and back, in the safetensors format: nothing is unpickled.

There is only one way to write them: the same tensors give the same bytes, and any other bytes are
refused. Reading copies nothing. The tensors share the memory of the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate
from math import prod

import numpy as np
import torch
from torch import Tensor

from unspoken.errors import WireError
from unspoken.wire.compression import Part

__all__ = ["Buffer", "chunks", "is_copied", "read_words", "size_of", "view"]

Buffer = bytes | bytearray | memoryview

_NAMES = {
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types that travel, in the order in which safetensors lays them out."""

_ORDER = list(_NAMES)
_WORDS = "unspoken"
_HEADER_LIMIT = 1 << 20
_START = b'{"__metadata__":{"unspoken":"'
_JSON = json.JSONDecoder()
_EXPLAINED = 1 << 16
"""Bytes of a header up to which an error says what in it is wrong."""


def chunks(tensors: Mapping[str, Tensor], words: str) -> list[Buffer]:
    """The pieces that make a file when joined: tensors on the CPU are not copied for it."""
    parts = {name: Part(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    data = [tensors[name].detach().cpu().contiguous() for name in _sorted(parts)]
    pieces: list[Buffer] = [_frame(parts, words)]
    return pieces + [tensor.flatten().view(torch.uint8).numpy().data for tensor in data]


def size_of(parts: Mapping[str, Part], words: str) -> int:
    """The bytes of a file, without writing one."""
    return len(_frame(parts, words)) + sum(map(_size, parts.values()))


def read_words(data: memoryview) -> str:
    """The string of a file. Raises `WireError`. Reads nothing after the file's header.

    What stands before and after the string is not parsed here; `view` compares it.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_HEADER_LIMIT, len(data) - 8):
        raise WireError(f"{len(data)} bytes are no message: its header claims {size} bytes")
    if bytes(data[8 : 8 + len(_START)]) != _START:
        raise WireError(f"these {len(data)} bytes are no message: they do not begin as one does")
    try:
        return _JSON.raw_decode(str(data[7 + len(_START) : 8 + size], "utf-8"))[0]
    except ValueError as error:
        raise WireError(f"these {len(data)} bytes are no whole message: {error!r:.200}") from error


def view(data: memoryview, parts: Mapping[str, Part], words: str) -> dict[str, Tensor]:
    """The tensors of a file that must hold exactly `parts`. They share its memory.

    Nothing may write into them: the memory may be a constant, or belong to other code.
    """
    frame = _frame(parts, words)
    if bytes(data[: len(frame)]) != frame:
        raise WireError(f"the message does not hold what its header says: {_odd(data, parts)}")
    claimed = len(frame) + sum(map(_size, parts.values()))
    if claimed != len(data):
        raise WireError(f"the message has {len(data)} bytes, but its header claims {claimed}")
    whole = torch.from_dlpack(np.frombuffer(data, np.uint8))
    if is_copied(data):
        whole = whole.clone()
    names = _sorted(parts)
    starts = accumulate((_size(parts[name]) for name in names), initial=len(frame))
    return {
        name: whole[start : start + _size(part)].view(part.dtype).view(part.shape)
        for (name, part), start in zip(((n, parts[n]) for n in names), starts, strict=False)
    }


def is_copied(data: memoryview) -> bool:
    """Whether `view` copies: a piece of a buffer may begin at an address that fits no tensor."""
    return np.frombuffer(data, np.uint8).ctypes.data % 8 != 0


def _size(part: Part) -> int:
    return prod(part.shape) * part.dtype.itemsize


def _sorted(parts: Mapping[str, Part]) -> list[str]:
    return sorted(parts, key=lambda name: (_ORDER.index(parts[name].dtype), name))


def _frame(parts: Mapping[str, Part], words: str) -> bytes:
    """All bytes before the first tensor, padded to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {_WORDS: words}}
    offset = 0
    for name in _sorted(parts):
        part, end = parts[name], offset + _size(parts[name])
        entries[name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _odd(data: memoryview, parts: Mapping[str, Part]) -> str:
    """What a header has too much, what it lacks, or what is different."""
    size = int.from_bytes(data[:8], "little")
    if size > _EXPLAINED:
        return "it is not written as a message is"
    try:
        found: dict[str, dict[str, object]] = json.loads(bytes(data[8 : 8 + size]))
        names = set(found) - {"__metadata__"}
        if names != set(parts):
            missing, extra = sorted(set(parts) - names), sorted(names - set(parts))
            return f"it lacks {missing[:4]} and has {extra[:4]!s:.200} that do not belong to it"
        for name, part in parts.items():
            given = (found[name]["dtype"], found[name]["shape"])
            if given != (wanted := (_NAMES[part.dtype], list(part.shape))):
                return f"{name!r} is {given!s:.100}, not {wanted}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error!r:.200})"
    return "it is not written as a message is"
