"""How a pipeline and its worker meet over TCP on loopback, whoever else knocks.

Each end names its port over the pipe between them. The worker closes what comes from another port
at once, unread, so nobody keeps it waiting. Then both prove that they hold the key of this worker,
which came over the pipe of its start. A proof holds for one meeting.
"""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection

__all__ = ["join", "wait_for"]

_HOST = "127.0.0.1"
_NONCE, _PROOF = 32, 32
_PORT = 16
"""Bytes of a port's name, at most."""


def wait_for(pipe: Connection, key: bytes) -> Connection:
    """The worker's end. Waits for the pipeline of `pipe`, and for nobody else.

    Raises `OSError` or `EOFError` if the pipeline is gone or holds another key.
    """
    expected = (_HOST, int(pipe.recv_bytes(_PORT)))
    with socket.create_server((_HOST, 0)) as listener:
        pipe.send_bytes(str(listener.getsockname()[1]).encode())
        while True:
            found, address = listener.accept()
            if address == expected:
                return _kept(found, partial(_admit, key=key))
            found.close()


def join(pipe: Connection, key: bytes, seconds: float) -> Connection:
    """The pipeline's end. Raises `OSError` if no worker with this key answers in time."""
    return _kept(socket.socket(), partial(_meet, pipe=pipe, key=key, seconds=seconds))


def _kept(found: socket.socket, meet: Callable[[socket.socket], None]) -> Connection:
    """The connection of a socket after a meeting; without one the socket is closed."""
    with closing(found):
        meet(found)
        found.settimeout(None)
        # Small frames go at once. Else each head would wait for the other end's acknowledgement.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(found.detach())


def _admit(found: socket.socket, key: bytes) -> None:
    nonce = os.urandom(_NONCE)
    found.sendall(nonce)
    other = _exactly(found, _NONCE)
    _check(_exactly(found, _PROOF), _proof(key, b"pipeline", nonce, other), "pipeline")
    found.sendall(_proof(key, b"worker", nonce, other))


def _meet(near: socket.socket, pipe: Connection, key: bytes, seconds: float) -> None:
    near.settimeout(seconds)
    near.bind((_HOST, 0))
    pipe.send_bytes(str(near.getsockname()[1]).encode())
    near.connect((_HOST, int(pipe.recv_bytes(_PORT))))
    nonce, own = _exactly(near, _NONCE), os.urandom(_NONCE)
    near.sendall(own + _proof(key, b"pipeline", nonce, own))
    _check(_exactly(near, _PROOF), _proof(key, b"worker", nonce, own), "worker")


def _proof(key: bytes, side: bytes, worker: bytes, pipeline: bytes) -> bytes:
    return hmac.digest(key, side + worker + pipeline, "sha256")


def _check(given: bytes, expected: bytes, side: str) -> None:
    if not hmac.compare_digest(given, expected):
        raise OSError(f"what answers in place of the {side} does not hold its key")


def _exactly(found: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (piece := found.recv(count - len(data))):
            raise EOFError("the other end is gone")
        data += piece
    return data
