"""A scheduler of rows that only count: who is next, who leaves, and that nobody waits forever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from threading import enumerate as threads
from typing import Any

import pytest

from unspoken.cancelling import cancelled_by
from unspoken.errors import QueueFull, SettingsError, WriteTimeout
from unspoken.scheduling import FairQueue, Limits, Scheduler, on_behalf_of, request


class Count:
    """A row that is over after some steps."""

    def __init__(self, name: str, steps: int = 1) -> None:
        self.name, self.steps, self.taken = name, steps, 0
        self.cancelled, self.error = False, None

    def cancel(self) -> None:
        self.cancelled = True


class Paced:
    """A batch that takes a step when the test lets it, and notes who was in it."""

    def __init__(self) -> None:
        self.rows: list[Count] = []
        self.steps: list[str] = []
        self.allowed, self.taken = Semaphore(0), Semaphore(0)
        self.broken: Exception | None = None

    def join(self, tasks: Sequence[Count]) -> None:
        self.rows += tasks

    def leave(self, tasks: Sequence[Count]) -> None:
        self.rows = [row for row in self.rows if row not in tasks]

    def step(self) -> Sequence[Count]:
        self.allowed.acquire()
        self.steps.append("".join(sorted(row.name for row in self.rows)))
        self.taken.release()
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        for row in self.rows:
            row.taken += 1
        over = [row for row in self.rows if row.taken == row.steps]
        self.leave(over)
        return over

    def allow(self, steps: int) -> None:
        """Let some steps happen, and wait until they have begun."""
        self.allowed.release(steps)
        for _ in range(steps):
            self.taken.acquire()


Asked = Callable[..., Future[Any]]


@pytest.fixture
def runner() -> Paced:
    return Paced()


@pytest.fixture
def scheduler(runner: Paced) -> Scheduler[Count]:
    return Scheduler(runner, Limits(max_rows=2), name="counting")


@pytest.fixture
def ask(runner: Paced, scheduler: Scheduler[Count]) -> Iterator[Asked]:
    """Asks in a thread of its own, and returns once the rows are queued."""
    queued = Semaphore(0)

    def asking(rows: Sequence[Count], owner: str, seconds: float | None, cancel: Any) -> Any:
        with on_behalf_of(owner, seconds=seconds), cancelled_by(cancel or (lambda: False)):
            try:
                with scheduler.submit(rows) as one:
                    queued.release()
                    return one.wait()
            except BaseException:
                queued.release()
                raise

    with ThreadPoolExecutor(8) as pool:

        def made(
            *rows: Count, owner: str = "", seconds: float | None = None, cancel: Any = None
        ) -> Future[Any]:
            asked = pool.submit(asking, rows, owner, seconds, cancel)
            queued.acquire()
            return asked

        yield made
        runner.allowed.release(1000)
    assert scheduler.idle(30)
    assert not [one for one in threads() if one.name == "scheduler of counting"]
    assert runner.rows == []


def test_rows_join_and_leave_between_steps(runner: Paced, ask: Asked) -> None:
    first = ask(Count("a", 3))
    runner.allow(1)
    second = ask(Count("b", 1))
    runner.allow(2)
    assert (first.result()[0].taken, second.result()[0].taken) == (3, 1)
    assert runner.steps[0] == "a"
    assert "ab" in runner.steps


def test_a_request_of_several_rows_takes_the_places_as_they_come_free(
    runner: Paced, ask: Asked
) -> None:
    asked = ask(Count("a", 2), Count("b", 1), Count("c", 1))
    runner.allow(2)
    asked.result()
    assert runner.steps == ["ab", "ac"]


def order(queue: FairQueue[str]) -> str:
    """Who is next, if ada has asked for four, and then bob and cy for one each."""
    for owner, name in (*(("ada", f"a{n}") for n in range(4)), ("bob", "b0"), ("cy", "c0")):
        queue.put(owner, name)
    served = {"cy": 1}
    return " ".join(queue.take(served) for _ in range(len(queue)))


def test_owners_take_turns_and_who_has_fewest_is_first() -> None:
    assert order(FairQueue()) == "a0 b0 a1 a2 a3 c0"

    class FirstCome(FairQueue[str]):
        def put(self, owner: str, one: str) -> None:
            super().put("", one)

    assert order(FirstCome()) == "a0 a1 a2 a3 b0 c0"  # else the check could not fail
    with pytest.raises(IndexError):
        FairQueue[str]().take({})


def test_a_crowd_of_one_owner_delays_another_by_one_row(runner: Paced, ask: Asked) -> None:
    many = [ask(Count(name, 1), owner="ada") for name in "uvwxyz"]
    one = ask(Count("b", 1), owner="bob")
    runner.allow(2)
    one.result()
    assert "b" in runner.steps[1] or "b" in runner.steps[0]
    runner.allow(2)
    for asked in many:
        asked.result()


def test_a_full_queue_refuses_and_says_when_to_come_back(
    runner: Paced, scheduler: Scheduler[Count], ask: Asked
) -> None:
    scheduler.limits = Limits(max_rows=1, max_waiting=3, max_waiting_each=2)
    running = ask(Count("a", 1), owner="ada")
    with pytest.raises(QueueFull, match=r"5 more are given; at most 3 .*at most 3 rows") as never:
        ask(*(Count("x") for _ in range(5)), owner="ada").result()
    assert never.value.retry_after is None
    waiting = [ask(Count("b"), owner="ada"), ask(Count("c"), owner="ada")]
    refused = ask(Count("d"), owner="ada").exception()
    other = ask(Count("e"), owner="bob")  # whose line is not full
    assert isinstance(refused, QueueFull)
    assert refused.retry_after is not None
    assert refused.retry_after >= 0
    runner.allow(4)
    for asked in (running, *waiting, other):
        asked.result()
    again = ask(Count("f"), owner="ada")
    runner.allow(1)
    again.result()
    assert "x" not in "".join(runner.steps)


def test_who_is_cancelled_leaves_before_the_next_step(runner: Paced, ask: Asked) -> None:
    over: list[int] = []
    stays = ask(Count("a", 4))
    goes = ask(Count("b", 9), cancel=lambda: bool(over))
    never = ask(Count("c", 9), cancel=lambda: bool(over))
    runner.allow(2)
    over.append(1)
    runner.allow(2)
    (row,) = goes.result()
    assert row.cancelled
    assert row.taken <= 3
    (waiting,) = never.result()
    assert (waiting.cancelled, waiting.taken) == (True, 0)
    runner.allowed.release(4)
    assert stays.result()[0].taken == 4


def test_a_turn_that_takes_too_long_leaves(
    runner: Paced, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(request, "monotonic", lambda: now[0])
    stays = ask(Count("a", 4))
    late = [ask(Count(name, 9), seconds=5) for name in "bc"]  # one runs, one waits
    runner.allow(2)
    now[0] = 6.0
    runner.allowed.release(4)
    for one in late:
        with pytest.raises(WriteTimeout, match="after 5 seconds"):
            one.result()
    assert stays.result()[0].taken == 4
    with pytest.raises(SettingsError, match="seconds"), on_behalf_of("ada", seconds=0):
        pass


def test_a_pass_that_fails_ends_its_rows_and_no_others(runner: Paced, ask: Asked) -> None:
    failing = [ask(Count(name, 3)) for name in "ab"]
    waiting = ask(Count("c", 1))
    runner.allow(1)
    runner.broken = ValueError("out of memory")
    runner.allowed.release(3)
    for one in failing:
        with pytest.raises(ValueError, match="out of memory"):
            one.result()
    assert waiting.result()[0].taken == 1


def test_what_a_caller_raises_is_its_own(runner: Paced, ask: Asked) -> None:
    def asks() -> bool:
        raise KeyError("mine")

    stays, fails = ask(Count("a", 2)), ask(Count("b", 2), cancel=asks)
    runner.allowed.release(4)
    with pytest.raises(KeyError, match="mine"):
        fails.result()
    assert stays.result()[0].taken == 2


def test_a_caller_that_breaks_off_takes_its_rows_along(
    runner: Paced, scheduler: Scheduler[Count]
) -> None:
    runner.allowed.release(100)
    with pytest.raises(RuntimeError, match="broke off"), scheduler.submit([Count("a", 10**9)]):
        raise RuntimeError("broke off")
    assert scheduler.idle(30)
    assert runner.rows == []


def test_the_state_counts_what_happens(
    runner: Paced, scheduler: Scheduler[Count], ask: Asked
) -> None:
    asked = [ask(Count(name, 2)) for name in "abc"]
    runner.allow(1)
    state = scheduler.state()
    assert state.waiting + state.running == 3
    runner.allowed.release(5)
    for one in asked:
        one.result()
    assert scheduler.idle(30)
    state = scheduler.state()
    assert (state.waiting, state.running, state.written) == (0, 0, 6)
