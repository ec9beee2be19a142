"""Threads that answer, the queue before them, and what they tell to those who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from time import monotonic
from typing import Generic, TypeVar

from unspoken.cancelling import cancelled_by
from unspoken.scheduling import FairQueue, on_behalf_of
from unspoken.serving.bounds import Bounds
from unspoken.serving.refusals import Refusal

__all__ = ["Job", "Workers"]

T = TypeVar("T")


class Job(Generic[T]):
    """A piece of work in a thread, and what it tells, for one reader in the loop.

    most: bytes that may wait for the reader. A reader who takes nothing ends the work.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.over = Event()
        self._loop = asyncio.get_running_loop()
        self._items = asyncio.Queue[tuple[T, int] | BaseException | None]()
        self._others: tuple[Callable[[T], None], Callable[[BaseException | None], None]] | None
        self._others = None
        self._lock, self._waiting = Lock(), 0
        self.turn: asyncio.Future[None] = self._loop.create_future()

    # -- the thread's side -------------------------------------------------------------------------

    def tell(self, item: T, size: int) -> None:
        """Tell something of `size` bytes. Raises `Refusal` if the reader takes nothing."""
        with self._lock:
            self._waiting += size
            full = self._waiting > self.most
        if full:
            self.over.set()
            raise Refusal(
                503, f"more than {self.most:,} bytes wait to be read; read faster", code="too_slow"
            )
        self._loop.call_soon_threadsafe(self._put, item, size)

    def _put(self, item: T, size: int) -> None:
        self._items.put_nowait((item, size))
        if self._others is not None:
            self._others[0](item)

    # -- the reader's side -------------------------------------------------------------------------

    async def get(self) -> T | None:
        """What is told next, None at the end. Raises what ended the work."""
        item = await self._items.get()
        if item is None or isinstance(item, BaseException):
            self._items.put_nowait(item)  # it stays so
            if item is not None:
                raise item
            return None
        found, size = item
        with self._lock:
            self._waiting -= size
        return found

    def also_tell(
        self, take: Callable[[T], None], end: Callable[[BaseException | None], None]
    ) -> None:
        """Tell somebody else too, in the loop, however slow the reader is."""
        self._others = take, end

    def give_up(self) -> None:
        """Nobody waits any more: the work ends after the pass in progress, or never begins."""
        self.over.set()
        self.turn.cancel()

    def end(self, error: BaseException | None) -> None:
        """Nothing more is told."""
        self._items.put_nowait(error)
        if self._others is not None:
            self._others[1](error)


class Workers:
    """A bounded number of threads, which owners share evenly, and a bounded queue before them.

    All methods are called in the loop.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.threads = ThreadPoolExecutor(bounds.running, "unspoken answers")
        self._running = Counter[str]()
        self._queue = FairQueue[tuple[str, asyncio.Future[None]]]()
        self._ends = dict[asyncio.Task[None], Callable[[], None]]()
        self._seconds = 0.0  # that an answer takes, a moving average

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._ends

    def start(self, owner: str, work: Callable[[Job[T]], None]) -> Job[T]:
        """Queue some work for an owner. Raises `Refusal` if too much waits."""
        self._check_room(owner)
        job = Job[T](self.bounds.unread)
        self._queue.put(owner, (owner, job.turn))
        task = asyncio.create_task(self._run(owner, job, work))
        self._ends[task] = job.give_up
        task.add_done_callback(self._ends.pop)
        self._next()
        return job

    def give_up(self) -> None:
        """End all work after the passes in progress."""
        for end in list(self._ends.values()):
            end()

    async def close(self) -> None:
        """End all work, and the threads."""
        self.give_up()
        if self._ends:
            await asyncio.wait(list(self._ends))
        self.threads.shutdown()

    def _check_room(self, owner: str) -> None:
        bounds, own = self.bounds, self._queue.waiting(owner)
        full = self.waiting >= bounds.waiting or own >= bounds.waiting_each
        if full and self.running >= bounds.running:
            seconds = self._seconds * (1 + self.waiting / bounds.running)
            raise Refusal.busy(
                f"{self.waiting} requests wait already, {own} of them yours; at most "
                f"{bounds.waiting} may wait, and {bounds.waiting_each} of one user. Ask later",
                seconds,
            )

    def _next(self) -> None:
        """Let those begin for whom there is a thread, the owner with the fewest first."""
        while self._queue and self.running < self.bounds.running:
            owner, turn = self._queue.take(self._running)
            if not turn.done():
                self._running[owner] += 1
                turn.set_result(None)

    async def _run(self, owner: str, job: Job[T], work: Callable[[Job[T]], None]) -> None:
        try:
            await job.turn
        except asyncio.CancelledError:  # it was given up while it waited
            self._queue.remove(lambda one: one[1] is job.turn)
            job.end(None)
            return
        begun, error = monotonic(), None
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.threads, self._work, owner, job, work)
        except BaseException as raised:
            error = raised
        self._seconds += 0.1 * (monotonic() - begun - self._seconds)
        self._running[owner] -= 1
        self._running += Counter[str]()  # without those who have none
        self._next()
        job.end(error)

    def _work(self, owner: str, job: Job[T], work: Callable[[Job[T]], None]) -> None:
        with (
            on_behalf_of(owner, seconds=self.bounds.seconds),
            cancelled_by(job.over.is_set),
        ):
            work(job)
