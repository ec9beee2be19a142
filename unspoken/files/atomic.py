"""Files and folders that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from unspoken.files.faults import writing
from unspoken.files.switching import is_there, put_back, switch
from unspoken.files.unfinished import new_file, new_folder, sweep

__all__ = ["atomic_file", "atomic_folder", "read_folder", "sha256", "write_bytes", "write_text"]

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. A reader sees the old file or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises `StorageError` when the disk is full or not writable."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(target: Path) -> Generator[BinaryIO]:
    """A file to write. It takes the place of `target` at the end, or vanishes on any error.

    What is written goes to the disk as it comes, and is there before the file takes its place. The
    file has the rights that the umask leaves. What killed writers have left in the folder is
    removed. Raises `StorageError` as `write_bytes`.
    """
    with writing(target), new_file(target) as (handle, beside):
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, target)  # while it is locked
        _sync_names(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Generator[Path]:
    """A folder to fill. It takes the place of `target` at the end, or vanishes on any error.

    A path into `target` leads to the old folder until the new one is whole and on the disk, then to
    the new one; see `switching`. Of several writers the last one stays. `read_folder` reads several
    files of one version. Rights and leftovers are as with `atomic_file`. If `target` is a link, the
    folder that it leads to is replaced.
    """
    place = Path(os.path.realpath(target))
    with writing(target):
        if _is_other(place):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        put_back(place)
        with new_folder(place) as beside:
            yield beside
            _finish(beside)
            switch(beside, place)
            _sync_names(place.parent)


def read_folder(folder: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a folder, all of it from one version.

    If `atomic_folder` replaces the folder meanwhile, it is read again. What killed writers have
    left beside it is put back or removed.
    """
    place = Path(os.path.realpath(folder))
    sweep(place.parent)
    while True:
        with writing(place):
            put_back(place)
        with _watched(place) as replaced:
            try:
                found = read(folder)
            except Exception:
                if not replaced():
                    raise
            else:
                if not replaced():
                    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_other(place: Path) -> bool:
    """Whether something is in a place that is no folder. Another writer may move it meanwhile."""
    try:
        return not stat.S_ISDIR(place.stat().st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _watched(place: Path) -> Generator[Callable[[], bool]]:
    """Whether another folder is, or comes, in a place. One that is open keeps its number."""
    try:
        handle = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        yield lambda: is_there(place)
        return
    try:
        yield lambda: not _is_at(place, handle)
    finally:
        os.close(handle)


def _is_at(place: Path, handle: int) -> bool:
    try:
        return os.path.samestat(place.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _finish(folder: Path) -> None:
    """Give all that is in a folder the rights that the folder has, and have it on the disk.

    Some libraries make files that only the user can read, whatever the umask.
    """
    rights = folder.stat().st_mode & 0o777
    for place, _, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                _allow(path, rights & 0o666)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _allow(Path(place), rights)
        _sync_names(Path(place))


def _allow(path: Path, rights: int) -> None:
    with suppress(PermissionError):  # a file system that knows no rights
        path.chmod(rights | path.stat().st_mode & 0o7000)


def _sync_names(folder: Path) -> None:
    """Have the names in a folder on the disk, where a system can be asked to."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
