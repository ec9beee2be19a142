"""Turns at a model: steps of a batch and passes that read keep out of each other's way."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from threading import Event, Lock
from typing import NamedTuple

import torch

from unspoken.scheduling.queue import FairQueue
from unspoken.scheduling.terms import terms

__all__ = ["CHUNK", "Turns"]

CHUNK = 512
"""How many tokens of a row one pass reads at most, and how many are read between two steps."""


class _Reader(NamedTuple):
    go: Event
    tokens: int


class Turns:
    """Who may use the machine: threads that read, or the one that takes a step for a batch.

    Each has one of the machine's places, of which there are as many as there are cores for them.
    If readers wait for all places, at most `CHUNK` tokens are read between two steps, and one pass
    more, by owners in turn. So a step waits for no more than that, and prompts are soon in the
    batch, which matters: a step with few rows costs almost as much as one with many. A place that
    no reader wants is that of the step, so that the one does not wait for the other.

    >>> turns = Turns()
    >>> with turns.read(12):
    ...     pass
    >>> with turns.step():
    ...     pass
    """

    def __init__(self) -> None:
        self.places = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
        self._free, self._read, self._stepping = self.places, 0, False
        self._readers, self._steppers = FairQueue[_Reader](), deque[Event]()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()  # a copy of a model has turns of its own

    @contextmanager
    def read(self, tokens: int) -> Generator[None]:
        """Wait for the turn to read some tokens, and keep it to the end of the block."""
        mine = _Reader(Event(), tokens)
        with self._lock:
            self._readers.put(terms().owner, mine)
            self._next()
        try:
            mine.go.wait()
            yield
        finally:
            with self._lock:
                if mine.go.is_set():
                    self._free += 1
                else:  # it was interrupted while it waited
                    self._readers.remove(lambda one: one is mine)
                self._next()

    @contextmanager
    def step(self) -> Generator[None]:
        """Wait for the turn to take a step, and keep it to the end of the block."""
        go = Event()
        with self._lock:
            self._steppers.append(go)
            self._next()
        go.wait()
        try:
            yield
        finally:
            with self._lock:
                self._free += 1
                self._stepping, self._read = False, 0
                self._next()

    def _next(self) -> None:
        """Let those go whose turn it is."""
        while self._free and self._readers and not (self._steppers and self._read >= CHUNK):
            reader = self._readers.take({})
            self._free, self._read = self._free - 1, self._read + reader.tokens
            reader.go.set()
        if self._free and self._steppers and not self._stepping:
            self._free, self._stepping = self._free - 1, True
            self._steppers.popleft().set()
