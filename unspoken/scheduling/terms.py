"""For whom a thread asks, and how long an answer may take."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from unspoken.errors import require
from unspoken.types import is_above_0

__all__ = ["Terms", "on_behalf_of", "terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """owner: whose request it is; owners share a model evenly. seconds: how long a turn may take
    from the moment that it asks for words, None without a limit.
    """

    owner: str = ""
    seconds: float | None = None


_NONE = Terms()
_terms = ContextVar[Terms]("terms", default=_NONE)


@contextmanager
def on_behalf_of(owner: str, *, seconds: float | None = None) -> Generator[None]:
    """While it is on, what this thread asks of models is asked for `owner`.

    seconds: how long each turn may take, its wait in the queue included. A turn that takes longer
    raises `WriteTimeout`, and its rows leave the batch.

    >>> with on_behalf_of("ada", seconds=30):
    ...     terms().owner
    'ada'
    """
    fits = seconds is None or is_above_0(seconds)
    require(fits, "seconds", seconds, "above 0, or None for no limit")
    token = _terms.set(Terms(owner, seconds))
    try:
        yield
    finally:
        _terms.reset(token)


def terms() -> Terms:
    """The terms on which this thread asks."""
    return _terms.get()
