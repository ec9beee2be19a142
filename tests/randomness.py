"""The random state of the process, which nothing but its owner may move."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["untouched"]


def _states() -> list[object]:
    name, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest]


@contextmanager
def untouched() -> Iterator[None]:
    """Checks that torch, `random` and numpy draw after it what they would have drawn before."""
    before = _states()
    yield
    assert _states() == before
