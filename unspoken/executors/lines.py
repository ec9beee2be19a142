"""Lines between a pipeline and a worker process: heads and messages over a pipe or a socket.

The framing is that of `multiprocessing.connection`, of which only bytes are used. Nothing that
comes over a line is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from mmap import ACCESS_COPY, mmap
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import Any, Literal
from weakref import finalize

from unspoken.executors.meeting import join, wait_for

__all__ = ["Line", "Segment", "SharedLine", "Transport", "offer", "take"]

Transport = Literal["pipe", "shared_memory", "tcp"]

_COUNT = 4
"""Bytes in front of a head: how many messages follow it."""


class Line:
    """One end of a pipe or socket: a head, and the messages after it.

    limit: bytes of the largest frame that is accepted. A larger one is refused before memory is
    allocated for it. Raises `OSError` or `EOFError` if the other end is gone, or ends midway.
    """

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection, self._limit = connection, limit

    def send(self, head: bytes, messages: Sequence[Any] = ()) -> None:
        self._connection.send_bytes(len(messages).to_bytes(_COUNT, "big") + head)
        for message in messages:
            self._put(message)

    def receive(self) -> tuple[bytes, list[Any]]:
        head = self._frame()
        count = int.from_bytes(head[:_COUNT], "big")
        return head[_COUNT:], [self._get() for _ in range(count)]

    def waiting(self, seconds: float = 0.0) -> bool:
        """Whether something comes within some seconds, or the other end is gone."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        self._connection.close()

    def _frame(self) -> bytes:
        return self._connection.recv_bytes(self._limit)

    def _put(self, message: Any) -> None:
        self._connection.send_bytes(message)

    def _get(self) -> Any:
        return self._frame()


class Segment:
    """Shared memory without a name: gone with the last process that holds it, however that ends.

    A file without a name on the shared memory's file system. Its handle is sent.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        finalize(self, os.close, handle)

    @classmethod
    def holding(cls, data: bytes) -> Segment:
        """A segment with these bytes. Raises `OSError` if there is no room."""
        with TemporaryFile(dir=_FOLDER, buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            return cls(os.dup(file.fileno()))

    def __len__(self) -> int:
        return os.fstat(self.handle).st_size

    def read(self) -> memoryview:
        """The bytes in place. The view keeps them; writing into it changes no other copy."""
        size = len(self)
        return memoryview(mmap(self.handle, size, access=ACCESS_COPY) if size else b"")


_FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None


class SharedLine(Line):
    """A line whose messages are in shared memory. Only handles go over the pipe.

    maps: whether messages are read on arrival, as a worker does; a pipeline passes them on.
    """

    def __init__(self, connection: Connection, limit: int, *, maps: bool) -> None:
        super().__init__(connection, limit)
        self._maps = maps

    def _put(self, message: Any) -> None:
        from multiprocessing.reduction import send_handle  # is another function on Windows

        segment = message if isinstance(message, Segment) else Segment.holding(message)
        send_handle(self._connection, segment.handle, None)

    def _get(self) -> Any:
        from multiprocessing.reduction import recv_handle

        try:
            segment = Segment(recv_handle(self._connection))
        except RuntimeError as error:  # how Python says that a handle was due and bytes came
            raise OSError(f"no handle of a message came: {error}") from error
        if len(segment) > self._limit:
            raise OSError(f"a message of {len(segment):,} bytes, at most {self._limit:,} are taken")
        return segment.read() if self._maps else segment


def offer(pipe: Connection, transport: Transport, key: bytes, limit: int) -> Line:
    """The worker's end of a line; `pipe` is there from its start."""
    match transport:
        case "pipe":
            return Line(pipe, limit)
        case "shared_memory":
            return SharedLine(pipe, limit, maps=True)
        case "tcp":
            return Line(wait_for(pipe, key), limit)


def take(pipe: Connection, transport: Transport, key: bytes, limit: int, seconds: float) -> Line:
    """The pipeline's end of a line; waits for the worker, over TCP at most so many seconds."""
    match transport:
        case "pipe":
            return Line(pipe, limit)
        case "shared_memory":
            return SharedLine(pipe, limit, maps=False)
        case "tcp":
            return Line(join(pipe, key, seconds), limit)
