"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from unspoken.errors import StorageError

__all__ = ["atomic_file", "atomic_folder", "sha256", "write_bytes", "write_text"]


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

    What is written goes to the disk as it comes. Raises `StorageError` as `write_bytes`.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside, 0o644)  # temporary files are private, results are not
            os.replace(beside, target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(target: Path) -> Generator[Path]:
    """A folder to fill. It takes the place of `target` at the end, or vanishes on any error.

    The old `target` stays until the new one is whole.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        old = beside.with_name(beside.name + ".old")
        try:
            yield beside
            beside.chmod(0o755)
            if target.exists():
                os.replace(target, old)
            os.replace(beside, target)
        finally:
            if old.exists() and not target.exists():  # interrupted between the two moves
                os.replace(old, target)
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's writer, closed on a full disk, raises a RuntimeError with the disk's as context
        found = (error, error.__context__)
        reason = next((n for n in _EXPECTED if any(_is(one, n) for one in found)), None)
        if reason is None:
            raise
        raise StorageError(
            f"cannot write {path}: {os.strerror(reason)}; nothing was changed there. "
            "Free some room or choose another folder, then run the same command again"
        ) from error


_EXPECTED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def _is(error: BaseException | None, number: int) -> bool:
    """Whether an error is of this number; safetensors has it in the words only."""
    return getattr(error, "errno", None) == number or f"(os error {number})" in str(error)
