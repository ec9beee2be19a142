"""Ids of content: a digest of words or settings, a fingerprint of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["digest", "fingerprint", "module_fingerprint", "plain_parts"]

_SAMPLES = 1024


def digest(content: Any) -> str:
    """SHA-256 in hex of a text, or of anything else as JSON: the same on every machine.

    >>> digest("seven")[:12], digest(["seven", 7])[:12]
    ('3ba8d02b16fd', 'e732e8530a33')
    """
    text = content if isinstance(content, str) else json.dumps(content)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits over names, shapes and evenly spaced samples, 1024 or more of each tensor.

    Samples are taken in bfloat16: float32 weights and their copy in bfloat16 have one fingerprint.

    >>> fingerprint({"w": torch.ones(3)}.items()) == fingerprint({"w": torch.ones(4)}.items())
    False
    """
    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in plain_parts(tensor):
            flat = part.flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLES)].to("cpu")
            if sample.is_floating_point() and sample.itemsize > 1:
                sample = sample.to(torch.bfloat16)
            found.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor consists of: itself, or those of a quantised one."""
    flat = getattr(tensor, "__tensor_flatten__", None)
    if flat is None:
        yield tensor.detach()
        return
    for name in flat()[0]:
        yield from plain_parts(getattr(tensor, name))


_known: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def module_fingerprint(module: nn.Module) -> str:
    """The fingerprint of a module's state, computed anew only when a tensor has changed.

    Every message asks for it, and a fuser has a thousand tensors. A change is seen as autograd sees
    it. What is written through `.data` later is not seen.
    """
    state = module.state_dict(keep_vars=True)
    versions = [(tensor.data_ptr(), tensor._version) for tensor in state.values()]
    if _known.get(module, ([], ""))[0] != versions:
        _known[module] = (versions, fingerprint(state.items()))
    return _known[module][1]
