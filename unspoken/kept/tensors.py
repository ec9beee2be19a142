"""Tensors and JSON under a digest, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unspoken.errors import Damaged
from unspoken.files import atomic_file
from unspoken.kept.content import DIGEST, check_keys, parse

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Tensors", "check_finite", "check_tensors", "load", "load_weights", "save"]

_ABOUT, _VERSION = "unspoken", 1
_DTYPES = {
    "float64": "F64",
    "int64": "I64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a file holds: JSON, the tensors by name, and its digest, '' if it has none."""

    content: dict[str, Any]
    tensors: dict[str, Tensor]
    digest: str


def save(path: Path, kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write tensors and JSON as one safetensors file, whole or not at all. Returns the digest.

    Tensors go to the disk one by one. kind: what the file is, so that it stands for nothing else.
    """
    about = json.dumps({"kind": kind, "version": _VERSION, "content": content})
    meta = {"format": "pt", _ABOUT: about, DIGEST: _digest(about, tensors)}
    header: dict[str, Any] = {"__metadata__": meta}
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # aligned
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": _DTYPES[_dtype(tensor)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with atomic_file(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(_bytes(tensors[name]))
    return meta[DIGEST]


def load(path: Path, kind: str) -> Tensors:
    """What `save` wrote, all of it checked. Raises `Damaged`."""
    found = load_weights(path, kind)
    if not found.digest:
        raise Damaged(f"{path} has no digest: it is damaged, or an earlier version wrote it")
    return found


def load_weights(path: Path, kind: str) -> Tensors:
    """The same of a file that may have no digest, as those of other people.

    Then the content is what the header says of the file.
    """
    meta, tensors = _read(path)
    if _ABOUT not in meta and DIGEST not in meta:
        return Tensors(dict(meta), tensors, "")
    if not _is_whole(meta, tensors):
        raise Damaged(f"{path} is damaged: its content is not what its digest was made of")
    about = parse(meta.get(_ABOUT, ""), path)
    check_keys(about, ("kind", "version", "content"), path)
    if (about["kind"], about["version"]) != (kind, _VERSION):
        raise Damaged(
            f"{path} holds {about['kind']!r} in version {about['version']}, but {kind!r} in "
            f"version {_VERSION} is wanted"
        )
    return Tensors(about["content"], tensors, meta[DIGEST])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # pyright: ignore
            meta = cast(dict[str, str], file.metadata() or {})
            names = cast(list[str], file.keys())
            return meta, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise Damaged(f"{path} is damaged, as it is no safetensors file: {error}") from error


def _is_whole(meta: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    known = all(_dtype(tensor) in _DTYPES for tensor in tensors.values())
    return known and meta.get(DIGEST) == _digest(meta.get(_ABOUT, ""), tensors)


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, _dtype(tensor), list(tensor.shape)]).encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(cast(Any, flat.view(torch.uint8).numpy()))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor | tuple[int, ...]], path: Path
) -> None:
    """Raise `Damaged`, with a name, unless all tensors are there, and none else.

    Each has the shape that is wanted, or that of a tensor. Its numbers are real and finite.
    """
    for name in sorted({*tensors, *wanted}):
        if name not in tensors or name not in wanted:
            state = "an unknown" if name in tensors else "no"
            raise Damaged(f"{path} has {state} tensor {name!r}")
        known, tensor = wanted[name], tensors[name]
        shape = known if isinstance(known, tuple) else tuple(known.shape)
        if tuple(tensor.shape) != shape:
            raise Damaged(
                f"{path} is damaged: {name!r} is {tuple(tensor.shape)}, but must be {shape}"
            )
        if not isinstance(known, tuple) and known.is_floating_point() != tensor.is_floating_point():
            raise Damaged(f"{path} is damaged: {name!r} is of type {_dtype(tensor)}")
        check_finite(tensor, f"{path} is damaged: {name!r}")


def check_finite(tensor: Tensor, what: str) -> None:
    """Raise `Damaged` for a number that is complex, infinite or none."""
    if tensor.is_complex() or not bool(tensor.isfinite().all()):
        raise Damaged(f"{what} holds numbers that are not real and finite")
