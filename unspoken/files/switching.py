"""A new folder in the place of an old one, so that a path always leads to one of them.

Linux exchanges two names in one step (renameat2). Where the system or the file system cannot, the
old folder is moved aside before the new one takes its place. A process that is killed in between
leaves the old one under a name of its own, and whoever comes next, writer or `read_folder`, puts it
back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path

from unspoken.files.unfinished import beside

__all__ = ["is_there", "put_back", "switch"]


def switch(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`. Then `new` is what was there, or is gone."""
    while True:
        try:
            _exchange(new, target)
            return
        except FileNotFoundError:  # there is none yet
            if _moved(new, target):
                return
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            _in_two_moves(new, target)
            return


def is_there(target: Path) -> bool:
    """Whether a folder is in its place, or moved aside by a killed process.

    Waits for a live one, that could move it between two looks.
    """
    with suppress(FileNotFoundError), _alone(target.parent):
        return target.exists() or _is_aside(target)
    return False


def put_back(target: Path) -> None:
    """Put back a folder that a killed process has moved aside. Waits for a live one."""
    if _is_aside(target):
        with _alone(target.parent):
            _settle(beside(target, _ASIDE), target)


def _is_aside(target: Path) -> bool:
    return beside(target, _ASIDE).exists()


_ASIDE = "replaced"
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step. Raises `OSError`, with ENOSYS where the system cannot."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _moved(new: Path, target: Path) -> bool:
    """Whether `new` is now where no folder was. Not if another writer has been faster."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _in_two_moves(new: Path, target: Path) -> None:
    aside = beside(target, _ASIDE)
    with _alone(target.parent):
        _settle(aside, target)
        if target.exists():
            os.replace(target, aside)
        try:
            os.replace(new, target)
        finally:
            _settle(aside, target)


def _settle(aside: Path, target: Path) -> None:
    """Put back what was moved aside if nothing has replaced it; else remove it."""
    if not target.exists():
        with suppress(FileNotFoundError):
            os.replace(aside, target)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time, without a file that would stay behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)
