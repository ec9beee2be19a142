"""Random numbers of torch, which belong to the whole process: borrowed, and given back."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock

import torch

__all__ = ["seeded"]

_borrowing = RLock()


@contextmanager
def seeded(seed: int | None = None) -> Generator[None]:
    """Within it torch draws by `seed`, and after it as if nothing had been drawn within.

    Without a seed it draws what it would have drawn next. One thread at a time is within: what
    others draw from torch meanwhile would mix with it.

    >>> before = torch.get_rng_state()
    >>> with seeded(7):
    ...     one = torch.rand(3)
    >>> with seeded(7):
    ...     two = torch.rand(3)
    >>> torch.equal(one, two), torch.equal(torch.get_rng_state(), before)
    (True, True)
    """
    # What is not in use yet must not be seeded: it would be when it is first used, after this.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _borrowing, torch.random.fork_rng(devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        if seed is not None and devices:
            torch.cuda.manual_seed_all(seed)
        yield
