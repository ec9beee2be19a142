"""Telling a run that it is no longer wanted."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Cancelled", "asked_of_this_thread", "cancelled_by", "is_cancelled", "stop_if_cancelled"]


class Cancelled(Exception):
    """Ends a turn that is no longer wanted, before its next forward pass.

    slots: those of the prompt's current part that had been read. tokens: what each row had read,
    in that many `passes`.
    """

    def __init__(self, slots: int = 0, tokens: tuple[int, ...] = (), passes: int = 0) -> None:
        super().__init__("the run is no longer wanted")
        self.slots, self.tokens, self.passes = slots, tokens, passes


def _never() -> bool:
    return False


_asked: ContextVar[Callable[[], bool]] = ContextVar("cancelled", default=_never)


@contextmanager
def cancelled_by(asked: Callable[[], bool]) -> Generator[None]:
    """While it is on, this thread's run ends after the forward pass in which `asked` turns True.

    What could end the run before still does.
    """
    before = _asked.get()
    token = _asked.set(lambda: asked() or before())
    try:
        yield
    finally:
        _asked.reset(token)


def is_cancelled() -> bool:
    """Whether this thread's run is no longer wanted."""
    return _asked.get()()


def asked_of_this_thread() -> Callable[[], bool]:
    """What `is_cancelled` asks here, for another thread that works for this one."""
    return _asked.get()


def stop_if_cancelled(slots: int = 0) -> None:
    """Raise `Cancelled` if this thread's run is no longer wanted. slots: see there."""
    if is_cancelled():
        raise Cancelled(slots)
