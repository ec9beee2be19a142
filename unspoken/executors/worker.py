"""A worker process: it makes an agent, and answers until its pipeline closes the line."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

from unspoken.cancelling import cancelled_by
from unspoken.executors.host import Host
from unspoken.executors.lines import Line, Transport, offer
from unspoken.executors.talk import CANCEL, Piece
from unspoken.wire.header import VERSION

__all__ = ["GREETING", "serve", "serve_spawned"]

GREETING = f"unspoken, wire {VERSION}".encode()
"""What another Python says first: the messages that it reads."""


def serve(handle: int) -> None:
    """In another Python: greet over the pipe of this handle, and answer what comes over it."""
    pipe = Connection(handle)
    pipe.send_bytes(GREETING)
    line, threads = pipe.recv()
    _serve(pipe, line, threads, sys.stdin)


def serve_spawned(pipe: Connection, line: tuple[Transport, bytes, int], threads: int) -> None:
    """In a process that Python has spawned."""
    parent = parent_process()
    assert parent is not None
    _serve(pipe, line, threads, parent.sentinel)


def _serve(
    pipe: Connection, line: tuple[Transport, bytes, int], threads: int, sentinel: Any
) -> None:
    """Answer until the pipeline closes the line, or is gone: then `sentinel` can be read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(sentinel,), daemon=True).start()
    with suppress(OSError, EOFError):
        host = Host(pipe.recv_bytes(), line[-1], threads)
        end = offer(pipe, *line)
        while True:
            _answer(end, host)


def _answer(line: Line, host: Host) -> None:
    """One request, in a separate function so that no message outlives its turn."""
    request, messages = line.receive()
    if request == CANCEL:  # it came when the turn was over
        return

    def tell(row: int, words: str) -> None:
        line.send(Piece(row=row, words=words).to_bytes())

    with cancelled_by(line.waiting):  # in a turn nothing else comes
        reply = host.answer(request, messages, tell)
    line.send(*reply)


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)  # in the middle of a turn, too
