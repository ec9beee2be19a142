"""A request: rows that one caller waits for, and what a scheduler asks of those who write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from queue import SimpleQueue
from threading import Event
from time import monotonic
from typing import Generic, Protocol, Self, TypeVar

from unspoken.errors import WriteTimeout
from unspoken.scheduling.terms import Terms

__all__ = ["Request", "Runner", "Task"]


class Task(Protocol):
    """One row that is to be written."""

    error: Exception | None
    """Why it could not be written."""

    def cancel(self) -> None:
        """It ends with what there is, or with nothing if it never began."""
        ...


T = TypeVar("T", bound=Task)


class Runner(Protocol[T]):
    """A batch that takes one step for all its rows. Only the thread of a scheduler calls it."""

    def join(self, tasks: Sequence[T]) -> None:
        """Take rows into the batch."""
        ...

    def leave(self, tasks: Sequence[T]) -> None:
        """Let rows go. All others stay as they are."""
        ...

    def step(self) -> Sequence[T]:
        """Write one token of every row. Returns the rows that are over, which have left."""
        ...


class Request(Generic[T]):
    """Some rows, the caller who waits for them, and what it is told in between.

    cancelled: asked between two steps. Once it returns True, rows end with what there is.
    """

    def __init__(self, tasks: Sequence[T], terms: Terms, cancelled: Callable[[], bool]) -> None:
        self.tasks, self.owner, self._cancelled = tuple(tasks), terms.owner, cancelled
        self.begun = monotonic()
        self._seconds = terms.seconds
        self._deadline = inf if terms.seconds is None else self.begun + terms.seconds
        self._left = set(tasks)
        self._given_up = False
        self._error: Exception | None = None
        self._over = Event()
        self._told = SimpleQueue[Callable[[], None] | None]()

    # -- the caller's side -------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits any more: what is still being written leaves, and this waits until then."""
        self._given_up = True
        self._over.wait()

    def wait(self) -> Sequence[T]:
        """The rows once all are over. What rows tell is told in this thread as it comes.

        Raises what kept a row from being written, or `WriteTimeout`.
        """
        for tell in iter(self._told.get, None):
            tell()
        if self._error is not None:
            raise self._error
        return self.tasks

    # -- the scheduler's side ----------------------------------------------------------------------

    @property
    def left(self) -> Sequence[T]:
        """The rows that are not over."""
        return [task for task in self.tasks if task in self._left]

    def later(self, tell: Callable[[], None]) -> None:
        """Let the thread that waits do something. If it is slow, that delays nobody else."""
        self._told.put(tell)

    def unwanted(self) -> bool:
        """Whether its rows have to leave, because of the caller, an error or the time."""
        if monotonic() > self._deadline:
            self.fail(_late(self._seconds))
        try:
            return self._given_up or self._error is not None or self._cancelled()
        except Exception as error:  # the caller's own, and nobody else's
            self.fail(error)
            return True

    def fail(self, error: Exception) -> None:
        """The first error is what the caller gets."""
        self._error = self._error or error

    def end(self, task: T) -> None:
        """A row is over."""
        if task.error is not None:
            self.fail(task.error)
        self._left.discard(task)
        if not self._left:
            self._over.set()
            self._told.put(None)


def _late(seconds: float | None) -> WriteTimeout:
    return WriteTimeout(
        f"the turn was not over after {seconds:g} seconds, which is its limit. Lower max_tokens, "
        "raise the limit, or ask fewer questions at once"
    )
