"""Unfinished files and folders beside their place: who fills them, and who removes them.

Whoever fills one holds a lock (`flock`) on it. The system ends the lock with the process, however
that ends. A cleaner removes only what it can lock itself, so it never touches what somebody fills,
in this process, in another one or in another container. Where a file system has no locks, nothing
is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

__all__ = ["beside", "new_file", "new_folder", "sweep"]


def beside(target: Path, ending: str) -> Path:
    """A hidden name beside `target`, short enough for every target that has a name."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = sha256(os.fsencode(name)).hexdigest()[:16]
    return target.parent / f".{name}.{ending}"


@contextmanager
def new_file(target: Path) -> Generator[tuple[int, Path]]:
    """An open, locked file beside `target`, with the rights that the umask leaves.

    It is removed at the end, if it was not moved. The handle is the caller's to close.
    """
    handle, path = _locked(target, _make_file)
    try:
        yield handle, path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A locked folder beside `target`, with the rights that the umask leaves.

    It is removed at the end with all that is in it, if it was not moved.
    """
    handle, path = _locked(target, _make_folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what was left unfinished in a folder by processes that are gone."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if _UNFINISHED.fullmatch(name):
                _remove(folder / name)


_ENDING = "unfinished"
_UNFINISHED = re.compile(rf"\..+\.[0-9a-f]{{8}}\.{_ENDING}", re.DOTALL)
_LONGEST = 200  # bytes of a name; most systems allow 255
_TRIES = 100


def _locked(target: Path, make: Callable[[Path], int]) -> tuple[int, Path]:
    """Make something new and lock it. A cleaner may be faster than the lock: then again."""
    sweep(target.parent)
    for _ in range(_TRIES):
        target.parent.mkdir(parents=True, exist_ok=True)
        path = beside(target, f"{token_hex(4)}.{_ENDING}")
        with suppress(FileExistsError):
            handle = _made(path, make)
            if handle is not None:
                return handle, path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))


def _made(path: Path, make: Callable[[Path], int]) -> int | None:
    try:
        handle = make(path)
    except FileNotFoundError:  # somebody has removed it, or the folder around it
        return None
    with suppress(OSError):  # a file system without locks
        flock(handle, LOCK_EX)
    if _is_at(handle, path):
        return handle
    os.close(handle)
    return None


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _remove(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # moved into place meanwhile, or another user's
        return
    with suppress(OSError):  # BlockingIOError: somebody fills it
        flock(handle, LOCK_EX | LOCK_NB)
        if _is_at(handle, path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether a path leads to what a handle has open."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
