"""Worker processes in another Python, whose environment has packages of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from shutil import which
from typing import Any

from unspoken.errors import PipelineError

__all__ = ["ABSENT", "Interpreter", "check_modules", "check_python"]

ABSENT = 90
"""The exit code of a Python that has no `unspoken`."""

_START = f"""
import sys
from importlib.util import find_spec
if find_spec("unspoken") is None:
    sys.exit({ABSENT})
from unspoken.executors.worker import serve
serve(int(sys.argv[1]))
"""


class Interpreter:
    """A process of another Python that serves a pipe, with the methods of a spawned one.

    Its standard input stays open and empty. It ends when that does: this process is gone then.
    """

    def __init__(self, python: str | Path, pipe: Connection) -> None:
        handle = pipe.fileno()
        self._process = subprocess.Popen(
            [python, "-c", _START, str(handle)], stdin=subprocess.PIPE, pass_fds=(handle,)
        )

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self._process.kill()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def close(self) -> None:
        """Give back what is left of a process that has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def check_python(python: str | Path) -> None:
    """Raise `PipelineError` for a Python that cannot be started."""
    if which(python) is None:
        raise PipelineError(
            f"python={str(python)!r} is no program that can be started; give the Python of an "
            "environment, as .venv-vllm/bin/python"
        )


def check_modules(python: str | Path, makes: Sequence[Any]) -> None:
    """Raise `PipelineError` for functions of a script, which another Python does not find."""
    for make in makes:
        while isinstance(make, partial):
            make = make.func
        if getattr(make, "__module__", "") == "__main__":
            raise PipelineError(
                f"{make!r} is a function of the script that runs, and {python} imports modules "
                "alone; put it into a module that it finds"
            )
