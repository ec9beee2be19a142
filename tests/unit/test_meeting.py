"""Over TCP a worker admits its pipeline and nobody else, whoever knocks first."""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection
from threading import Thread
from time import monotonic
from typing import Any

import pytest

from unspoken.executors.lines import Line, offer, take
from unspoken.executors.meeting import join, wait_for

KEY, LIMIT = bytes(range(32)), 1 << 16
Ends = tuple[Connection, Connection]
Knock = Callable[[int, ExitStack], None]


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = Pipe()
    with near, far:
        yield near, far


class Tapped:
    """A pipe by which strangers learn the worker's port, and knock before the pipeline does."""

    def __init__(self, pipe: Connection, knock: Callable[[int], None]) -> None:
        self.pipe, self.knock = pipe, knock

    def send_bytes(self, data: bytes) -> None:
        self.pipe.send_bytes(data)

    def recv_bytes(self, most: int) -> bytes:
        port = self.pipe.recv_bytes(most)
        self.knock(int(port))
        return port


def beside(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start work in a thread. What it gives or raises comes when it is asked for."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(10)
        assert found, "it still waits"
        return found[0]

    return result


def silent(port: int, opened: ExitStack) -> None:
    opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))


def loud(port: int, opened: ExitStack) -> None:
    stranger = opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))
    stranger.sendall(os.urandom(1 << 12))


def half(port: int, opened: ExitStack) -> None:
    """The first part of a handshake, and no more."""
    stranger = opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))
    stranger.sendall(bytes(32))


def gone(port: int, opened: ExitStack) -> None:
    socket.create_connection(("127.0.0.1", port), 10).close()


def many(port: int, opened: ExitStack) -> None:
    for _ in range(200):
        silent(port, opened)


def python(port: int, opened: ExitStack) -> None:
    """The handshake of Python, with another key."""

    def knock() -> None:
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client(("127.0.0.1", port), authkey=b"guessed")

    opened.callback(beside(knock))


@pytest.mark.parametrize("knock", [silent, loud, half, gone, many, python])
def test_who_knocks_first_does_not_come_in(ends: Ends, knock: Knock):
    near, far = ends
    worker = beside(lambda: offer(far, "tcp", KEY, LIMIT))
    with ExitStack() as opened:
        tapped: Any = Tapped(near, lambda port: knock(port, opened))
        pipeline = beside(lambda: take(tapped, "tcp", KEY, LIMIT, 10))
        mine, its = pipeline(), worker()
        assert isinstance(mine, Line), mine
        mine.send(b"hello", [b"words"])
        assert its.receive() == (b"hello", [b"words"])
        its.send(b"done")
        assert mine.receive() == (b"done", [])
        mine.close()
        its.close()


def test_nobody_comes_in_afterwards(ends: Ends):
    near, far = ends
    ports: list[int] = []
    tapped: Any = Tapped(near, ports.append)
    worker = beside(lambda: wait_for(far, KEY))
    with join(tapped, KEY, 10), worker(), pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", ports[0]), 10)


def test_the_listener_is_on_loopback(ends: Ends, monkeypatch: pytest.MonkeyPatch):
    near, far = ends
    asked: list[Any] = []
    made = socket.create_server

    def listening(address: Any) -> socket.socket:
        asked.append(address)
        return made(address)

    monkeypatch.setattr(socket, "create_server", listening)
    worker = beside(lambda: wait_for(far, KEY))
    with join(near, KEY, 10), worker():
        assert asked == [("127.0.0.1", 0)]


def test_another_key_is_refused_by_both_ends(ends: Ends):
    near, far = ends
    worker = beside(lambda: wait_for(far, KEY))
    with pytest.raises(EOFError):
        join(near, bytes(32), 10)
    assert "does not hold its key" in str(worker())


@pytest.mark.parametrize("words", [b"", bytes(64), bytes(10)], ids=["silent", "loud", "half"])
def test_a_false_worker_is_refused_within_the_time_limit(ends: Ends, words: bytes):
    near, far = ends
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far.send_bytes(str(listener.getsockname()[1]).encode())

        def play() -> socket.socket:
            found, _ = listener.accept()
            found.sendall(words)
            return found

        false, start = beside(play), monotonic()
        with pytest.raises(OSError, match=r"timed out|does not hold its key"):
            join(near, KEY, 0.5)
        assert monotonic() - start < 5
        false().close()


def test_a_proof_that_was_recorded_is_worth_nothing(ends: Ends):
    """A stranger at the pipeline's own port, who sends what the pipeline sent another time."""
    near, far = ends
    worker = beside(lambda: wait_for(far, KEY))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        near.send_bytes(str(stranger.getsockname()[1]).encode())
        stranger.connect(("127.0.0.1", int(near.recv_bytes(16))))
        recorded, own = bytes(32), bytes(32)
        stranger.sendall(own + hmac.digest(KEY, b"pipeline" + recorded + own, "sha256"))
        assert "does not hold its key" in str(worker())
