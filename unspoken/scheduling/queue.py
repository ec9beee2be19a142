"""Who is next: the owner with the fewest rows in the batch, and among equals who waited longest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """What waits, in a line for each owner.

    One owner with a thousand requests delays another's first by one row at most. Within a line the
    first to come is the first to go.

    >>> queue = FairQueue[int]()
    >>> for owner, number in (("ada", 1), ("ada", 2), ("bob", 3)):
    ...     queue.put(owner, number)
    >>> [queue.take({}) for _ in range(len(queue))]
    [1, 3, 2]
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}  # who was served last is at the end
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        return (one for line in self._lines.values() for one in line)

    def waiting(self, owner: str) -> int:
        """How many wait in an owner's line."""
        return len(self._lines.get(owner, ()))

    def put(self, owner: str, one: T) -> None:
        self._lines.setdefault(owner, deque()).append(one)
        self._size += 1

    def take(self, served: Mapping[str, int]) -> T:
        """The next one. served: how much each owner has already. Raises `IndexError` if none is."""
        if not self._lines:
            raise IndexError("nothing waits")
        owner = min(self._lines, key=lambda name: served.get(name, 0))
        line = self._lines.pop(owner)
        one = line.popleft()
        if line:
            self._lines[owner] = line
        self._size -= 1
        return one

    def remove(self, unwanted: Callable[[T], bool]) -> None:
        """Take those out that nobody wants any more."""
        lines = self._lines.items()
        kept = {name: deque(one for one in line if not unwanted(one)) for name, line in lines}
        self._lines = {name: line for name, line in kept.items() if line}
        self._size = sum(map(len, self._lines.values()))
