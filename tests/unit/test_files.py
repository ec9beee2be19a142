"""Files and folders that are either whole or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import sha256 as digest
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from unspoken.errors import StorageError
from unspoken.files import atomic_file, atomic_folder, sha256, write_bytes, write_text

Fail = Callable[..., None]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let `os.NAME` raise an OSError from its n-th call on, `times` times."""

    def arrange(name: str, code: int = errno.ENOSPC, *, after: int = 0, times: int = 99) -> None:
        real, calls = getattr(os, name), []

        def failing(*args: object) -> object:
            calls.append(args)
            if after < len(calls) <= after + times:
                raise OSError(code, os.strerror(code), str(args[0]))
            return real(*args)

        monkeypatch.setattr(os, name, failing)

    return arrange


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_makes_the_folder_and_replaces_the_file(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "file.txt"
    write_text(path, "first")
    write_text(path, "zweites, größer")
    assert path.read_text(encoding="utf-8") == "zweites, größer"
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, fails: Fail, step: str, code: int):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    fails(step, code)
    with pytest.raises(StorageError) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert "Free some room or choose another folder" in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_a_disk_that_fills_up_while_torch_writes(tmp_path: Path, monkeypatch):
    """Torch's writer raises an error of its own when it is closed on a full disk."""
    path = tmp_path / "file.pt"
    write_text(path, "old")

    def on_a_full_disk(handle: int, mode: str) -> BinaryIO:
        os.dup2(os.open("/dev/full", os.O_WRONLY), handle)
        return opened(handle, mode)

    opened = os.fdopen
    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    with pytest.raises(StorageError, match="No space left on device"), atomic_file(path) as file:
        torch.save({"weight": torch.zeros(100_000)}, file)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(errno.EIO, "broken")])
def test_any_other_end_leaves_the_old_file_too(tmp_path: Path, monkeypatch, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(error if isinstance(error, type) else OSError) as caught:
        write_text(path, "new")
    assert not isinstance(caught.value, StorageError)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def fill(target: Path, words: str) -> None:
    with atomic_folder(target) as beside:
        assert beside.parent == target.parent
        (beside / "a.txt").write_text(words)
        if target.exists():
            assert (target / "a.txt").read_text() == "old"  # until the new one is whole


def test_a_folder_takes_its_place(tmp_path: Path):
    target = tmp_path / "deep" / "model"
    fill(target, "old")
    (target / "left over").touch()
    fill(target, "new")
    assert (target / "a.txt").read_text() == "new"
    assert names(target) == ["a.txt"]
    assert names(target.parent) == ["model"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_folder_that_is_not_finished_vanishes(tmp_path: Path, exists: bool, error):
    target = tmp_path / "model"
    if exists:
        fill(target, "old")

    def stop() -> None:
        with atomic_folder(target) as beside:
            (beside / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        stop()
    assert names(tmp_path) == (["model"] if exists else [])
    assert not exists or (target / "a.txt").read_text() == "old"


@pytest.mark.parametrize("move", [0, 1])
def test_a_disk_that_fills_up_while_folders_move(tmp_path: Path, fails: Fail, move: int):
    target = tmp_path / "model"
    fill(target, "old")
    fails("replace", after=move, times=1)
    with pytest.raises(StorageError, match="Free some room"):
        fill(target, "new")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_full_disk_inside_a_folder(tmp_path: Path, fails: Fail):
    target = tmp_path / "model"
    fill(target, "old")
    fails("fsync")
    with pytest.raises(StorageError, match=r"a\.txt"), atomic_folder(target) as beside:
        write_text(beside / "a.txt", "new")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_the_hash_of_a_file(tmp_path: Path):
    data = b"unspoken" * 100_000
    write_bytes(tmp_path / "file", data)
    assert sha256(tmp_path / "file") == digest(data).hexdigest()
