"""Errors of the system, told in one line: what happened where, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from unspoken.errors import StorageError

__all__ = ["fault", "writing"]


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the system raises while `path` is written into a `StorageError`.

    Errors that the user can do nothing about are passed on.
    """
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        number = _number(error)
        if number is None:
            raise
        raise StorageError(
            f"cannot write {path}: {os.strerror(number)}; nothing was changed there. "
            f"{_REMEDIES[number]}"
        ) from error


def fault(error: OSError) -> StorageError | None:
    """An error of the system as one that says what to do, if the user can do anything."""
    number = _number(error)
    if number is None:
        return None
    where = f"cannot use {error.filename}" if error.filename else "the system refuses"
    return StorageError(f"{where}: {os.strerror(number)}. {_REMEDIES[number]}")


def _number(error: BaseException) -> int | None:
    # torch's writer, closed on a full disk, raises a RuntimeError with the disk's as context
    found = (error, error.__context__)
    return next((n for n in _REMEDIES if any(_is(one, n) for one in found)), None)


def _is(error: BaseException | None, number: int) -> bool:
    """Whether an error is of this number; safetensors has it in the words only."""
    return getattr(error, "errno", None) == number or f"(os error {number})" in str(error)


_AGAIN = "then run the same command again"
_ROOM = f"Free some room or choose another folder, {_AGAIN}"
_RIGHT = f"Give this user the right to it or choose another folder, {_AGAIN}"
_A_FILE = f"A file is where a folder must be: move it away or choose another folder, {_AGAIN}"
_A_FOLDER = f"A folder is where a file must be: move it away or choose another name, {_AGAIN}"
_LARGE = f"Raise the limit on the size of files (ulimit -f) or choose another disk, {_AGAIN}"
_MOUNTED = "It is, or holds, a mounted disk, which stays where it is: choose a folder below it"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _LARGE,
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EROFS: f"Choose a folder on a disk that can be written to, {_AGAIN}",
    errno.ENOTDIR: _A_FILE,
    errno.EEXIST: _A_FILE,
    errno.EISDIR: _A_FOLDER,
    errno.ENOENT: "It, or a folder above it, is not there: make it, or name another",
    errno.ENAMETOOLONG: f"Choose a shorter name, {_AGAIN}",
    errno.ELOOP: "A link leads back to itself: remove it, or choose another folder",
    errno.EBUSY: _MOUNTED,
    errno.EXDEV: _MOUNTED,
}
