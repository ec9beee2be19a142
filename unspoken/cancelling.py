"""Telling a run that it is no longer wanted."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["asked_of_this_thread", "cancelled_by", "is_cancelled"]


def _never() -> bool:
    return False


_asked: ContextVar[Callable[[], bool]] = ContextVar("cancelled", default=_never)


@contextmanager
def cancelled_by(asked: Callable[[], bool] | None) -> Generator[None]:
    """While it is on, this thread's run ends after the next token once `asked` returns True."""
    token = _asked.set(asked or _asked.get())
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
