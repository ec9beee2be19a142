"""Events of a run as they happen, for a loop or for asyncio, and runs that are given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from contextvars import copy_context
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread, current_thread
from typing import Self
from weakref import finalize

import torch

from unspoken.cancelling import cancelled_by
from unspoken.events import Event, RunEnded, Tell
from unspoken.runs import Run

__all__ = ["AsyncStream", "Stream", "Work"]

Work = Callable[[Tell], None]
"""Computes a run, and tells its events."""

_Item = Event | BaseException | None
"""An event, the error that ended the run, or None for its end."""


class _Running:
    """A run in a thread of its own. put: takes what it tells, from that thread."""

    def __init__(self, work: Work, put: Callable[[_Item], None]) -> None:
        self.work, self.put = work, put
        self.over, self.done = Flag(), Future[None]()
        self.run: Run | None = None
        self.thread = Thread(target=copy_context().run, args=(self._compute,), daemon=True)
        self.precision = [
            (kind, torch.get_autocast_dtype(kind))
            for kind in ("cpu", "cuda")
            if torch.is_autocast_enabled(kind)  # belongs to a thread
        ]
        self.thread.start()

    def _compute(self) -> None:
        error: BaseException | None = None
        try:
            with ExitStack() as here:
                here.enter_context(cancelled_by(self.over.is_set))
                for kind, dtype in self.precision:
                    here.enter_context(torch.autocast(kind, dtype))
                self.work(self._tell)
        except BaseException as raised:  # it comes out where the events are read
            error = raised
        self.done.set_result(None)
        if error is not None:
            self.put(error)
        self.put(None)

    def _tell(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self.run = event.run
        self.put(event)

    def close(self) -> None:
        """End the run, and wait until the pass in progress is over."""
        self.over.set()
        if self.thread is not current_thread():
            self.thread.join()


class Stream(Iterator[Event]):
    """The events of one run, which is computed in a thread while they are read.

    It begins with the first event. `close`, the end of a `with` block or of the object itself ends
    the run after the forward pass in progress, and returns when that is over. It may be called at
    any time, from any thread, and more than once. `cancel` does not wait: the events that are left
    still come, and `RunEnded` says "cancelled". What goes wrong in the run is raised here.

    >>> from unspoken import Agent, Pipeline
    >>> from unspoken.testing import tiny_backbone
    >>> with Pipeline([Agent("solver", tiny_backbone())]).stream("how many?") as events:
    ...     next(events)
    TurnStarted(agent='solver', round=1, step=1, item=0)
    >>> events.run.finish
    'cancelled'
    """

    def __init__(self, work: Work) -> None:
        self._work: Work | None = work
        self._items = SimpleQueue[_Item]()
        self._running: _Running | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run(self) -> Run | None:
        """What came of the run, as far as it went. None while it goes on, or if it failed."""
        return self._running.run if self._running else None

    def __next__(self) -> Event:
        if self._closed:
            raise StopIteration
        if self._running is None:
            assert self._work is not None
            self._running, self._work = _Running(self._work, self._items.put), None
            finalize(self, self._running.close)
        try:
            item = self._items.get()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if item is None or isinstance(item, BaseException):
            self.close()
            raise StopIteration if item is None else item
        return item

    def cancel(self) -> None:
        """Ask the run to end after the pass in progress."""
        if self._running is None:
            self._closed = True
        else:
            self._running.over.set()

    def close(self) -> None:
        """End the run, and wait until the pass in progress is over."""
        self._closed = True
        if self._running is not None:
            self._running.close()
            self._items.put(None)  # for another thread that waits


class AsyncStream(AsyncIterator[Event]):
    """The events of one run for asyncio, see `Stream`. A task that is cancelled ends the run.

    `aclose`, and cancelling, return when the forward pass in progress is over, so that no thread is
    busy then. Use it in `async with`, or read it to its end.
    """

    def __init__(self, work: Work) -> None:
        self._work: Work | None = work
        self._items = asyncio.Queue[_Item]()
        self._running: _Running | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def run(self) -> Run | None:
        """What came of the run, as far as it went. None while it goes on, or if it failed."""
        return self._running.run if self._running else None

    async def __anext__(self) -> Event:
        if self._closed:
            raise StopAsyncIteration
        if self._running is None:
            assert self._work is not None
            self._put = self._putting()
            self._running, self._work = _Running(self._work, self._put), None
            finalize(self, self._running.over.set)  # what is forgotten keeps no loop waiting
        try:
            item = await self._items.get()
        except BaseException:
            await self.aclose()
            raise
        if item is None or isinstance(item, BaseException):
            await self.aclose()
            raise StopAsyncIteration if item is None else item
        return item

    def _putting(self) -> Callable[[_Item], None]:
        loop, items = asyncio.get_running_loop(), self._items

        def put(item: _Item) -> None:
            with suppress(RuntimeError):  # the loop was closed, and nobody listens
                loop.call_soon_threadsafe(items.put_nowait, item)

        return put

    def cancel(self) -> None:
        """Ask the run to end after the pass in progress. The events that are left still come."""
        if self._running is None:
            self._closed = True
        else:
            self._running.over.set()

    async def aclose(self) -> None:
        """End the run, and wait until the pass in progress is over, whatever cancels the wait."""
        self._closed = True
        if self._running is None:
            return
        self._running.over.set()
        try:
            await _end_of(self._running.done)
        finally:
            self._running.close()
            self._put(None)  # for another task that waits


async def _end_of(done: Future[None]) -> None:
    """Wait for it in any case. Cancelling the task takes effect when it is there."""
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.shield(asyncio.wrap_future(done))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
