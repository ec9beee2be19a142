"""What stands for weights: a fingerprint of their values, not of their place or their name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["fingerprint", "module_fingerprint"]

_SAMPLES = 1024


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits over names, shapes and evenly spaced samples, 1024 or more of each tensor.

    Samples are taken in bfloat16: float32 weights and their copy in bfloat16 have one fingerprint.

    >>> fingerprint({"w": torch.ones(3)}.items()) == fingerprint({"w": torch.ones(4)}.items())
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLES)].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


_known: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def module_fingerprint(module: nn.Module) -> str:
    """The fingerprint of a module's state, computed anew only when a tensor has changed.

    Every message asks for it, and a fuser has a thousand tensors. A change is seen as autograd sees
    it: what is written through `.data` behind its back is not, once the module was asked.
    """
    state = module.state_dict(keep_vars=True)
    versions = [(tensor.data_ptr(), tensor._version) for tensor in state.values()]
    if _known.get(module, ([], ""))[0] != versions:
        _known[module] = (versions, fingerprint(state.items()))
    return _known[module][1]
