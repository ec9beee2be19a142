"""A look at canvases while they are denoised, from anywhere around the call that writes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Frame", "watched", "watching"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The first row of a canvas after a step: its words, None where it is masked.

    fresh: whether a position got its word in this step. step: from 1, of `steps` at most.
    """

    model: str
    words: tuple[str | None, ...]
    fresh: tuple[bool, ...]
    step: int
    steps: int


Tell = Callable[[Frame], None]

_WATCH: ContextVar[Tell | None] = ContextVar("watch", default=None)


@contextmanager
def watching(tell: Tell) -> Generator[None]:
    """Within it, `tell` is called at every step of every canvas that this thread denoises.

    Agents, channels and pipelines in between need not know. Canvases in other processes are not
    shown.
    """
    before = _WATCH.set(tell)
    try:
        yield
    finally:
        _WATCH.reset(before)


def watched() -> Tell | None:
    """The function that is watching, if there is one."""
    return _WATCH.get()
