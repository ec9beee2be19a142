"""Agents in separate processes, over a pipe, shared memory or a TCP socket on loopback."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import ProcessError, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Event, Timer
from typing import Any, get_args

import torch
from pydantic import ValidationError

from unspoken.agents import Agent, Edge
from unspoken.cancelling import is_cancelled
from unspoken.errors import PipelineError, UnspokenError, WorkerError, WorkerTimeout, unknown
from unspoken.executors.base import Make, check_limits
from unspoken.executors.host import pack
from unspoken.executors.interpreter import ABSENT, Interpreter, check_modules, check_python
from unspoken.executors.lines import Line, Transport, take
from unspoken.executors.remote import RemoteAgent
from unspoken.executors.talk import CANCEL, REPLY, Answer, Describe, Piece, Request, TakeTurn
from unspoken.executors.worker import GREETING, serve_spawned
from unspoken.types import OnText

__all__ = ["Processes"]

_LOOK = 0.02
"""Seconds after which a pipeline that waits for a reply looks whether its run is cancelled."""

_GRACE = 5.0
"""Seconds that a process has to end when its line is closed."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Every agent runs in a separate process, with its own copy of its model.

    transport: "pipe" and "tcp" (loopback, with a key) send messages through this process;
    "shared_memory" leaves them where the sender wrote them. timeout: seconds for a turn. start:
    seconds until an agent is made. limit: bytes of the largest message. Processes are spawned: a
    script that makes such a pipeline does so under `if __name__ == "__main__":`.

    python: the Python of another environment, such as .venv-vllm/bin/python, in which the processes
    run. It has this version of `unspoken`, and finds the modules of the functions that make agents.

    >>> Processes("tcp", timeout=20).transport
    'tcp'
    """

    transport: Transport = "pipe"
    timeout: float = 300.0
    start: float = 600.0
    limit: int = 8 << 30
    python: str | Path | None = None

    def __post_init__(self) -> None:
        if self.transport not in get_args(Transport):
            raise unknown("transport", self.transport, get_args(Transport))
        check_limits(self.timeout, self.start, self.limit)
        if sys.platform == "win32" and (self.transport == "shared_memory" or self.python):
            raise PipelineError(
                "'shared_memory' and another python pass handles as Unix does; on Windows use "
                "'pipe', and this Python"
            )
        if self.python is not None:
            check_python(self.python)

    def place(
        self, agents: Sequence[Agent | Make], edges: Sequence[Edge], opened: ExitStack
    ) -> list[RemoteAgent]:
        if self.python is not None:
            check_modules(self.python, agents)
        packed = [pack(agent, edges) for agent in agents]
        workers = [_Worker(self, f"agent number {n}", one) for n, one in enumerate(packed, 1)]
        opened.callback(_close, workers)
        try:
            for worker in workers:
                worker.start()  # all at once; each is waited for below
            return [RemoteAgent(worker, edges) for worker in workers]
        except BaseException:
            for worker in workers:  # the others may be loading a model that is no longer needed
                worker.end()
            raise


class _Worker:
    """A process with a `Host`, its line and its time limits."""

    def __init__(self, settings: Processes, who: str, packed: bytes) -> None:
        self.who, self._settings, self._packed = who, settings, packed
        self._key, self._closed = secrets.token_bytes(32), False
        self._process: SpawnProcess | Interpreter | None = None
        self._pipe: Connection | None = None
        self._line: Line | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def _line_settings(self) -> tuple[Transport, bytes, int]:
        return self._settings.transport, self._key, self._settings.limit

    def start(self) -> None:
        """Start the process, and do not wait for it."""
        self.end()
        context, limits = get_context("spawn"), self._settings
        self._pipe, theirs = context.Pipe()
        # Our copy of their end would keep the pipe open when they are gone.
        with _without_interrupts(), theirs:
            if limits.python is None:
                arguments = (theirs, self._line_settings, torch.get_num_threads())
                process = context.Process(target=serve_spawned, args=arguments, daemon=True)
                process.start()
                self._process = process
            else:
                self._process = Interpreter(limits.python, theirs)

    def ask(
        self,
        request: Request,
        messages: Sequence[Any] = (),
        on_text: OnText | None = None,
    ) -> tuple[Answer, list[Any]]:
        """See `Worker`. At the time limit the process is killed, which ends every wait for it."""
        given_up = not isinstance(request, TakeTurn)  # nothing else takes long
        if self._closed:
            raise PipelineError(f"{self.who} was closed with its pipeline; make a new pipeline")
        try:
            if not self.running:
                self.start()
            with self._limited(request) as guarded:
                with guarded():
                    line = self._connected()
                    line.send(request.to_bytes(), messages)
                while True:
                    with guarded():
                        given_up = given_up or _gives_up(line)
                        head, sent = line.receive()
                        reply = REPLY.validate_json(head)
                    if not isinstance(reply, Piece):
                        return reply, sent
                    if on_text is not None:
                        on_text(reply.row, reply.words)
        except BaseException:  # Ctrl-C too: the rest of this reply would be read as the next one
            self.end()
            raise

    def _connected(self) -> Line:
        if self._line is None:
            assert self._pipe is not None
            limits = self._settings
            if limits.python is not None:
                _check_greeting(limits.python, self._pipe.recv_bytes())
                self._pipe.send((self._line_settings, torch.get_num_threads()))
            self._pipe.send_bytes(self._packed)  # by no other way than the pipe of its start
            self._line = take(self._pipe, *self._line_settings, limits.start)
        return self._line

    @contextmanager
    def _limited(self, request: Request) -> Generator[Callable[[], AbstractContextManager[None]]]:
        """Kill the process at the time limit. `guarded` raises the error that says why it ended."""
        process, limits = self._process, self._settings
        assert process is not None
        seconds, name = (
            (limits.start, "start")
            if isinstance(request, Describe)
            else (limits.timeout, "timeout")
        )
        late = Event()

        def expire() -> None:
            late.set()
            with suppress(ValueError):  # it was reaped at this moment
                process.kill()

        @contextmanager
        def guarded() -> Generator[None]:
            try:
                yield
            except (OSError, EOFError, ProcessError, ValidationError) as error:
                if not late.is_set():
                    raise self._lost(process, error) from error
                raise WorkerTimeout(
                    f"{self.who} did not answer within {seconds:g} s, and its process was ended; "
                    f"give it more time with {name}=..., or find out why it hangs. {_AGAIN}"
                ) from error

        timer = Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield guarded
        finally:
            timer.cancel()

    def _lost(self, process: SpawnProcess | Interpreter, error: Exception) -> UnspokenError:
        process.join(_GRACE)
        code, python = process.exitcode, self._settings.python
        if python is not None and code == ABSENT:
            return PipelineError(
                f"{python} has no package `unspoken`, which makes {self.who} there; install this "
                "version of it in that environment"
            )
        if code is None:
            how = f"broke off: {error}"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ", as it is when memory runs out" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with exit code {code}; see what it wrote above"
        return WorkerError(f"the process of {self.who} {how}. {_AGAIN}")

    def end(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()

        self.hang_up()
        self.reap()

    def close(self) -> None:
        """Ask nothing more. The process ends when it finds its line closed."""
        self._closed = True
        self.hang_up()

    def hang_up(self) -> None:
        for end in (self._line, self._pipe):
            if end is not None:
                end.close()
        self._line = self._pipe = None

    def reap(self) -> None:
        """Wait until the process is gone, and kill it if it does not go."""
        process, self._process = self._process, None
        if process is not None:
            process.join(_GRACE)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _check_greeting(python: str | Path, said: bytes) -> None:
    if said != GREETING:
        raise PipelineError(
            f"the `unspoken` of {python} is another one: it says {said[:60]!r}, and this one "
            f"{GREETING!r}; install the same version in both environments"
        )


def _gives_up(line: Line) -> bool:
    """Wait for a reply, and tell the worker if the run is cancelled before it comes."""
    while not line.waiting(_LOOK):
        if is_cancelled():
            line.send(CANCEL)
            return True
    return False


def _close(workers: Sequence[_Worker]) -> None:
    for worker in workers:  # they end at the same time
        worker.close()
    for worker in workers:
        worker.reap()


_AGAIN = "What it had sent of this turn is dropped; run again, and it is started again"


@contextmanager
def _without_interrupts() -> Generator[None]:
    """A process that is started in here ignores Ctrl-C, which a terminal sends to every process.

    The pipeline receives it, and ends its processes.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
