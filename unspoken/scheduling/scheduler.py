"""A scheduler: one thread that lets rows join, takes a step for all, and lets rows go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from time import monotonic
from typing import Generic, TypeVar

from unspoken.cancelling import asked_of_this_thread
from unspoken.errors import QueueFull
from unspoken.scheduling.queue import FairQueue
from unspoken.scheduling.request import Request, Runner, Task
from unspoken.scheduling.terms import terms

__all__ = ["Limits", "Scheduler", "SchedulerState"]

T = TypeVar("T", bound=Task)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken on at once.

    max_rows: rows in the batch. max_waiting: rows that wait for a place in it, of all owners;
    max_waiting_each: those of one owner, who cannot fill the queue for all others.
    """

    max_rows: int = 64
    max_waiting: int = 4096
    max_waiting_each: int = 2048


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """What a scheduler does now, and what it did since it was made.

    waiting and running: rows. steps: passes over the batch. written: rows of all these steps, each
    of which is a token.
    """

    waiting: int
    running: int
    steps: int
    written: int


class Scheduler(Generic[T]):
    """Lets rows of many requests share the steps of one batch.

    Its thread is there only while there is work. limits may be replaced at any time; they count for
    what comes next.
    """

    def __init__(self, runner: Runner[T], limits: Limits = Limits(), *, name: str = "") -> None:
        self.runner, self.limits, self.name = runner, limits, name
        self._waiting = FairQueue[tuple[Request[T], T]]()
        self._running: dict[T, Request[T]] = {}
        self._changed = Condition()
        self._thread: Thread | None = None
        self._steps = self._written = 0
        self._seconds = 0.0  # that a row takes, a moving average

    def submit(
        self, tasks: Sequence[T], listen: Callable[[Request[T]], None] | None = None
    ) -> Request[T]:
        """Queue rows, all or none, on the terms of this thread. Raises `QueueFull`.

        listen: gets the request before its rows can begin.
        """
        request = Request(tasks, terms(), asked_of_this_thread())
        if listen is not None:
            listen(request)
        with self._changed:
            self._check_room(request.owner, len(tasks))
            if self._thread is None:  # it waits for the lock before it looks for work
                thread = Thread(target=self._run, name=f"scheduler of {self.name}")
                thread.start()
                self._thread = thread
            for task in tasks:
                self._waiting.put(request.owner, (request, task))
        return request

    def state(self) -> SchedulerState:
        """What it does now."""
        with self._changed:
            return SchedulerState(
                len(self._waiting), len(self._running), self._steps, self._written
            )

    def idle(self, seconds: float | None = None) -> bool:
        """Wait until there is no work and no thread. False if there still is after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, seconds)

    def _check_room(self, owner: str, more: int) -> None:
        limits, own = self.limits, self._waiting.waiting(owner)
        free = max(0, limits.max_rows - len(self._running))
        total = len(self._waiting) + more - free
        if total <= limits.max_waiting and own + more - free <= limits.max_waiting_each:
            return
        most = limits.max_rows + min(limits.max_waiting, limits.max_waiting_each)
        waits = self._seconds * max(1.0, len(self._waiting) / limits.max_rows)
        fits, remedy = more <= most, f"Try again in {waits:.0f} seconds"
        if not fits:
            remedy = f"Give at most {most} rows at once"
        raise QueueFull(
            f"{len(self._waiting)} rows wait for {self.name!r}, {own} of them for {owner!r}, and "
            f"{more} more are given; at most {limits.max_waiting} may wait, and "
            f"{limits.max_waiting_each} for one owner. {remedy}",
            retry_after=waits if fits else None,
        )

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._has_work():
            try:
                self._step()
            except BaseException as error:
                self._fail(error)

    def _has_work(self) -> bool:
        with self._changed:
            if self._waiting or self._running:
                return True
            self._thread = None
            self._changed.notify_all()
            return False

    def _step(self) -> None:
        self._let_go()
        self._join()
        self._steps += 1
        self._written += len(self._running)
        for task in self.runner.step():
            self._end(task)

    def _let_go(self) -> None:
        """Rows that nobody wants leave, whether they run or wait."""
        with self._changed:
            requests = {id(one): one for one in self._running.values()}
            requests |= {id(one): one for one, _ in self._waiting}
        unwanted = {key for key, request in requests.items() if request.unwanted()}
        if not unwanted:
            return
        leaving = [task for task, one in self._running.items() if id(one) in unwanted]
        self.runner.leave(leaving)
        with self._changed:
            self._waiting.remove(lambda pair: id(pair[0]) in unwanted)
        for task in leaving:
            del self._running[task]
        for key in unwanted:
            for task in requests[key].left:
                task.cancel()
                requests[key].end(task)

    def _join(self) -> None:
        """Rows that wait take the free places, evenly by owner."""
        joining = dict[T, Request[T]]()
        with self._changed:
            shares = Counter(request.owner for request in self._running.values())
            while self._waiting and len(self._running) + len(joining) < self.limits.max_rows:
                request, task = self._waiting.take(shares)
                shares[request.owner] += 1
                joining[task] = request
            self._running |= joining
        if joining:
            self.runner.join(list(joining))

    def _end(self, task: T) -> None:
        with self._changed:
            request = self._running.pop(task)
        self._seconds += 0.1 * (monotonic() - request.begun - self._seconds)
        request.end(task)

    def _fail(self, error: BaseException) -> None:
        """The whole batch failed, and nobody can tell which row was to blame."""
        with self._changed:
            running, self._running = self._running, {}
        self.runner.leave(list(running))
        for task, request in running.items():
            request.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            request.end(task)
