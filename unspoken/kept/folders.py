"""Folders under digests, and what becomes of what is damaged."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

from unspoken.errors import Damaged, StorageError
from unspoken.files import sha256, write_text
from unspoken.kept.content import digested, read_json

__all__ = ["FILES", "advising", "check_files", "set_aside", "write_files"]

FILES = "files.json"
"""The file with the digests of the other files of a folder."""


def write_files(folder: Path, **about: Any) -> None:
    """Write files.json into a folder: size and digest of every other file, and what it is about."""
    write_text(folder / FILES, json.dumps(digested({**about, "files": _listed(folder)})) + "\n")


def check_files(folder: Path) -> dict[str, Any] | None:
    """What `write_files` wrote about a folder, with all files as they were; None without one.

    Raises `Damaged`, and names the first file that differs.
    """
    if not (folder / FILES).exists():
        return None
    about = read_json(folder / FILES)
    files = about.get("files")
    if not isinstance(files, dict):
        raise Damaged(f"{folder / FILES} is damaged: it lists no files")
    for name, known in cast(dict[str, Any], files).items():
        path = folder / name
        if not path.is_file() or sha256(path) != known:
            raise Damaged(f"{path} is {'damaged' if path.is_file() else 'missing'}")
    return about


def _listed(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in paths}


@contextmanager
def advising(remedy: str) -> Generator[None]:
    """Add to an error about damage what one can do about it."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{error}; {remedy}") from error


def set_aside(path: Path, error: Damaged) -> None:
    """Move what is damaged to `<name>.damaged`, in place of an earlier one, and warn."""
    aside = path.with_name(f"{path.name}.damaged")
    if not path.exists():  # another process was faster
        return
    try:
        _remove(aside)
        os.replace(path, aside)
    except OSError as failure:
        _cannot(path, failure)
    warnings.warn(f"{error}. It is made anew; the old one is {aside}", stacklevel=3)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cannot(path: Path, failure: OSError) -> NoReturn:
    raise StorageError(
        f"{path} is damaged and cannot be moved aside: {failure.strerror}; remove it"
    ) from failure
