"""Files and folders that are either whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256 as digest
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.folders import contend
from unspoken.errors import StorageError
from unspoken.files import (
    atomic_file,
    atomic_folder,
    read_folder,
    sha256,
    sweep,
    switching,
    unfinished,
    write_bytes,
    write_text,
)

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


REMEDIES = {
    errno.ENOSPC: "Free some room or choose another folder",
    errno.EDQUOT: "Free some room or choose another folder",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "Choose a folder on a disk that can be written to",
    errno.EACCES: "Give this user the right to it",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EBUSY: "a mounted disk",
}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", REMEDIES)
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, fails: Fail, step: str, code: int):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    fails(step, code)
    with pytest.raises(StorageError) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert REMEDIES[code] in str(caught.value)
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


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot exchange two names in one step."""
    monkeypatch.setattr(switching, "_renameat2", None)


@pytest.mark.usefixtures("without_exchange")
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


def test_a_file_where_a_folder_should_be_is_left_alone(tmp_path: Path):
    write_text(tmp_path / "model", "old")
    with pytest.raises(StorageError, match="A file is where a folder must be"):
        fill(tmp_path / "model", "new")
    assert (tmp_path / "model").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_the_folder_behind_a_link_is_replaced(tmp_path: Path):
    fill(tmp_path / "disk" / "model", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    with atomic_folder(tmp_path / "link") as beside:
        (beside / "a.txt").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["model"]


@pytest.mark.parametrize("length", [200, 255])
def test_a_name_as_long_as_the_system_allows(tmp_path: Path, length: int):
    write_text(tmp_path / ("f" * length), "words")
    fill(tmp_path / ("d" * length), "old")
    assert names(tmp_path) == ["d" * length, "f" * length]


# -- rights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_files_and_folders_have_the_rights_that_the_umask_leaves(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "words")
        with atomic_folder(tmp_path / "folder") as beside:
            save_file({"weight": torch.zeros(2)}, beside / "weights.safetensors")  # makes it 0600
            write_text(beside / "deep" / "file", "words")
            (beside / "private").mkdir(0o700)
    finally:
        os.umask(before)
    for path in (tmp_path / "file", *(tmp_path / "folder").rglob("*"), tmp_path / "folder"):
        mode = 0o777 if path.is_dir() else 0o666
        assert oct(path.stat().st_mode & 0o777) == oct(mode & ~mask), path


# -- kills and leftovers ---------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from unspoken.files import atomic_file, atomic_folder, switching, unfinished
target, at = Path(sys.argv[1]), sys.argv[2]
if "moves" in at:
    switching._renameat2 = None

def die(*_, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def after(work, calls=1):
    def last(*given):
        nonlocal calls
        work(*given)
        calls -= 1
        if not calls:
            die()
    return last

place, name = {
    "made": (unfinished, "flock"), "locked": (os.path, "samestat"), "synced": (os, "fsync"),
    "filled": (os, "walk"), "exchanged": (switching, "_renameat2"),
    "moves, one": (os, "replace"), "moves, both": (os, "replace"), "replaced": (os, "replace"),
}[at]
dies_before = at in ("made", "locked", "filled")
setattr(place, name, die if dies_before else after(getattr(place, name), 2 if "both" in at else 1))
if target.suffix:
    with atomic_file(target) as file:
        file.write(b"new")
else:
    with atomic_folder(target) as beside:
        (beside / "a.txt").write_text("new")
"""


def killed(target: Path, at: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), at], timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "at", ["made", "locked", "filled", "synced", "exchanged", "moves, one", "moves, both"]
)
def test_a_kill_loses_no_folder_and_the_next_start_cleans_up(tmp_path: Path, at: str):
    target = tmp_path / "model"
    fill(target, "old")
    killed(target, at)
    found = read_folder(target, lambda place: (place / "a.txt").read_text())
    assert found == ("new" if at in ("exchanged", "moves, both") else "old")
    assert names(tmp_path) == ["model"]
    killed(target, at)
    with atomic_folder(target) as beside:
        (beside / "a.txt").write_text("newer")
    assert names(tmp_path) == ["model"]
    assert (target / "a.txt").read_text() == "newer"


@pytest.mark.parametrize("at", ["made", "locked", "synced", "replaced"])
def test_a_kill_loses_no_file_and_the_next_start_cleans_up(tmp_path: Path, at: str):
    target = tmp_path / "words.pt"
    write_text(target, "old")
    killed(target, at)
    assert target.read_text() == ("new" if at == "replaced" else "old")
    write_text(tmp_path / "another", "")
    assert names(tmp_path) == ["another", "words.pt"]


OTHER = """
import sys
from pathlib import Path
from unspoken.files import sweep, write_text
sweep(Path(sys.argv[1]))
write_text(Path(sys.argv[1], "file"), "theirs")
"""


def test_what_a_live_writer_fills_is_not_removed(tmp_path: Path):
    target, other = tmp_path / "model", tmp_path / "file"
    with atomic_folder(target) as beside, atomic_file(other) as file:
        (beside / "a.txt").write_text("kept")
        file.write(b"kept")
        subprocess.run([sys.executable, "-c", OTHER, str(tmp_path)], check=True, timeout=60)
        sweep(tmp_path)  # and this one
        assert (beside / "a.txt").exists()
    assert (target / "a.txt").read_text() == other.read_text() == "kept"
    assert names(tmp_path) == ["file", "model"]


def test_only_what_is_unfinished_is_removed(tmp_path: Path):
    mine = [".model.12345678", ".env", "model.12345678.unfinished", ".a.1234567.unfinished"]
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / ".link.12345678.unfinished").symlink_to(tmp_path / ".env")
    (tmp_path / ".model.12345678.unfinished").mkdir()
    write_text(tmp_path / "model", "words")
    assert names(tmp_path) == sorted([*mine, ".link.12345678.unfinished", "model"])


def test_a_writer_whose_place_was_cleaned_before_it_was_locked_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, seen = unfinished.flock, []

    def late(handle: int, how: int) -> None:
        if not seen:
            seen.append(handle)
            sweep(tmp_path)  # another process starts now
            assert names(tmp_path) == []
        real(handle, how)

    monkeypatch.setattr(unfinished, "flock", late)
    fill(tmp_path / "model", "old")
    assert names(tmp_path) == ["model"]


# -- many at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [False, True])
def test_two_writers_and_two_readers(tmp_path: Path, moves: bool):
    """`benchmarks/folders.py` does it for a minute."""
    found = contend(tmp_path, 2, moves=moves)
    assert min(found["writes"], found["opens"], found["reads"]) > 10
    bad = {name: found[name] for name in ("missing", "unread", "mixed", "errors", "left over")}
    if moves:  # a path leads to nothing for a moment
        del bad["missing"]
    assert not any(bad.values()), bad


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path):
    target, seen = tmp_path / "model", []
    fill(target, "old")

    def read(place: Path) -> str:
        seen.append((place / "a.txt").read_text())
        if len(seen) == 1:
            fill(target, "new")
        return seen[-1]

    assert read_folder(target, read) == "new"
    assert seen == ["old", "new"]


def test_an_error_of_reading_is_raised_if_nothing_was_replaced(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "none", lambda place: (place / "a.txt").read_text())
