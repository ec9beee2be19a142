"""Who reads and who steps: never both, never too much between two steps, owners in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import deepcopy
from threading import Event, Semaphore, Thread
from typing import Any

import pytest
import torch

from unspoken.backbone import Backbone
from unspoken.scheduling import CHUNK, FairQueue, Turns, on_behalf_of
from unspoken.scheduling import turns as module
from unspoken.testing import tiny_backbone
from unspoken.types import Need, Prompt, Text


class Watched:
    """Turns with one place for readers, and the order in which threads got theirs."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.turns, self.pool, self.order = Turns(), pool, list[str]()
        self.turns.places = self.turns._free = 1
        self.inside = 0
        self.done: list[Any] = []

    def ask(self, name: str, turn: Callable[[], AbstractContextManager[None]], owner: str) -> None:
        """Queue a thread, and return once it waits or has its turn."""
        queued = Semaphore(0)

        def work() -> None:
            with on_behalf_of(owner):
                queued.release()
                with turn():
                    self.inside += 1
                    assert self.inside == 1
                    self.order.append(name)
                    self.inside -= 1

        before = self.waiting()
        self.done.append(self.pool.submit(work))
        queued.acquire()
        while self.waiting() == before:
            pass

    def waiting(self) -> int:
        return len(self.turns._readers) + len(self.turns._steppers)

    def read(self, name: str, tokens: int, owner: str = "") -> None:
        self.ask(name, lambda: self.turns.read(tokens), owner)

    def step(self) -> None:
        self.ask("step", self.turns.step, "")


@pytest.fixture
def watched() -> Iterator[Watched]:
    with ThreadPoolExecutor(16) as pool:
        yield Watched(pool)


def queued(watched: Watched) -> str:
    """The order in which readers of two owners and two steps go."""
    begun, go = Event(), Event()

    def hold() -> None:
        with watched.turns.step():
            begun.set()
            go.wait()

    held = watched.pool.submit(hold)
    begun.wait()
    for n in range(3):
        watched.read(f"a{n}", CHUNK // 2, "ada")
    watched.read("b0", CHUNK, "bob")
    watched.step()
    watched.step()
    go.set()
    for one in (held, *watched.done):
        one.result()
    return " ".join(watched.order)


def test_between_two_steps_owners_read_in_turn_and_no_more_than_a_piece(watched: Watched) -> None:
    assert queued(watched) == "a0 b0 step a1 a2 step"


@pytest.mark.parametrize("twin", ["first come", "no bound"])
def test_the_check_can_fail(twin: str, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin == "no bound":
        monkeypatch.setattr(module, "CHUNK", 10**9)
    else:
        plain = FairQueue[Any].put
        monkeypatch.setattr(FairQueue, "put", lambda self, owner, one: plain(self, "", one))
    assert queued(watched) != "a0 b0 step a1 a2 step"


def test_who_is_interrupted_while_waiting_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    turns.places = turns._free = 1

    class Interrupted(Event):
        def wait(self, timeout: float | None = None) -> bool:
            if not self.is_set():
                raise KeyboardInterrupt
            return True

    with turns.read(1):
        monkeypatch.setattr(module, "Event", Interrupted)
        with pytest.raises(KeyboardInterrupt), turns.read(1):
            raise AssertionError("it had no turn")
    with turns.read(1), pytest.raises(KeyboardInterrupt), turns.read(1):
        pass
    with turns.step():
        pass


@pytest.mark.parametrize(("places", "beside"), [(1, False), (2, True)])
@pytest.mark.parametrize("first", ["read", "step"])
def test_a_place_that_is_free_is_for_either(places: int, beside: bool, first: str) -> None:
    turns, entered = Turns(), Event()
    turns.places = turns._free = places
    read, step = lambda: turns.read(CHUNK), turns.step

    def enter() -> None:
        with step() if first == "read" else read():
            entered.set()

    with read() if first == "read" else step():
        thread = Thread(target=enter, daemon=True)
        thread.start()
        assert entered.wait(30 if beside else 0.1) is beside
    thread.join(30)
    assert entered.is_set()
    assert turns._free == places


def test_copies_have_turns_of_their_own() -> None:
    turns = Turns()
    with turns.read(1):
        twin = deepcopy(turns)
        with twin.step():
            pass


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
@torch.no_grad()
def test_long_prompts_are_read_in_pieces_and_are_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = frozenset({Need("text"), Need("hidden", layer=2), Need("cache")})
    model: Backbone = tiny_backbone(kind)
    prompt = Prompt((Text(("a long text in one row", "and another")),))
    whole = model.read(prompt, needs=needs)
    monkeypatch.setattr("unspoken.backbone.passes.CHUNK", 5)
    reads, plain = list[int](), model.turns.read

    def counted(tokens: int) -> AbstractContextManager[None]:
        reads.append(tokens)
        return plain(tokens)

    monkeypatch.setattr(model.turns, "read", counted)
    parts = model.read(prompt, needs=needs)
    assert max(reads) == 5
    assert len(reads) > 3
    pairs = [(parts.hidden[2].values, whole.hidden[2].values)]
    both = zip(parts.context.kv, whole.context.kv, strict=True)
    pairs += [pair for a, b in both for pair in zip(a, b, strict=True)]
    real = whole.context.mask[:, :-1, None]
    for one, other in pairs:
        if one.dim() == 4:
            one, other = one * real[:, None], other * real[:, None]
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
