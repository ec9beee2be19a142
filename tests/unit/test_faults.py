"""Errors of the system through the command line: one line with the remedy, and `doctor` first."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench import Bench
from unspoken import doctor
from unspoken.cli import main

Where = Callable[[Path], Path]


def behind_a_file(home: Path) -> Path:
    (home / "file").touch()
    return home / "file" / "out"


def a_file(home: Path) -> Path:
    (home / "file").touch()
    return home / "file"


def in_a_circle(home: Path) -> Path:
    (home / "link").symlink_to(home / "link")
    return home / "link" / "out"


PLACES: dict[str, tuple[Where, str]] = {
    "ENOTDIR": (behind_a_file, "A file is where a folder must be: move it away"),
    "EEXIST": (a_file, "A file is where a folder must be: move it away"),
    "ENOENT": (lambda home: Path("/proc/none/out"), "is not there: make it, or name another"),
    "ENAMETOOLONG": (lambda home: home / ("x" * 300), "Choose a shorter name"),
    "ELOOP": (in_a_circle, "A link leads back to itself: remove it"),
}


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a command ends with, with exit code 1."""

    def run(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        err = capsys.readouterr().err
        assert ended.value.code == 1
        assert "Traceback" not in err
        (line,) = (line for line in err.splitlines() if "Error: " in line)
        assert err.rstrip().endswith(line)
        return line

    return run


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("command", ["recipes", "train", "report"])
def test_a_place_that_cannot_be_used_is_told_in_one_line(
    command: str, name: str, bench: Bench, told: Callable[..., str]
) -> None:
    make, remedy = PLACES[name]
    place = make(bench.home)
    if command == "recipes":
        line = told("recipes", "cp", "relay", str(place))
    elif command == "train":
        line = told("train", "relay", *bench.settings(f"out={place}"))
    else:
        (bench.home / "some").mkdir()
        line = told("report", str(place))
        remedy = remedy if name == "ENAMETOOLONG" else "holds no "
    assert remedy in line
    assert str(place)[:100] in line


@pytest.mark.parametrize("name", PLACES)
def test_so_is_a_cache_and_doctor_finds_it_first(
    name: str, bench: Bench, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, remedy = PLACES[name]
    monkeypatch.setenv("UNSPOKEN_CACHE", str(make(bench.home)))
    line = next(line for line in doctor.examine().missing if line.startswith("cache: "))
    assert remedy in line
    assert "Or set UNSPOKEN_CACHE to a folder that can be written to" in line
    assert remedy in told("train", "relay", *bench.settings())


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """A system that lets no file grow larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 3000, 20_000])
def test_a_limit_on_the_size_of_files(size: int, bench: Bench, told: Callable[..., str]) -> None:
    with files_of(size):
        found = doctor.examine().missing
        line = told("train", "relay", *bench.settings())
    assert any(f"no file may be larger than {size:,} bytes" in one for one in found)
    assert "File too large" in line
    assert "Raise the limit on the size of files (ulimit -f)" in line


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that the system does not know, without HOME."""
    for name in ("HOME", "UNSPOKEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home(bench: Bench, told: Callable[..., str]) -> None:
    said = "this user has no home folder, and so no cache: set HOME, or UNSPOKEN_CACHE"
    assert any(line.startswith(f"cache: {said}") for line in doctor.examine().missing)
    assert said in told("models")
    assert said in told("train", "relay", *bench.settings())
    assert said in told("ask", "planner_solver", "why?")


def test_a_working_folder_that_is_gone(
    tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (line,) = (one for one in doctor.examine().missing if one.startswith("working folder"))
    assert "is not there: make it" in line
    assert "is not there: make it" in told("recipes", "cp", "relay", "here")


def test_a_machine_without_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SHARED", tmp_path / "shm")
    monkeypatch.setattr("sys.platform", "linux")
    (line,) = (one for one in doctor.examine().missing if one.startswith("shared memory"))
    assert f"there is no {tmp_path / 'shm'}. Mount a tmpfs there" in line


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert any("less than 2 GB are free" in line for line in doctor.examine().missing)


def test_doctor_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("UNSPOKEN_CACHE", str(tmp_path / "new" / "cache"))
    doctor.examine()
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


# -- disks that refuse -----------------------------------------------------------------------------

MOUNTS = {
    "full": ("-t tmpfs -o size=64k none {0}", "Free some room or choose another folder"),
    "read-only": ("-t tmpfs -o ro none {0}", "Choose a folder on a disk that can be written to"),
}


CHILD = """
import os, sys
sys.path.insert(0, os.getcwd())
from unspoken.cli import main
for place, words in {commands!r}:
    os.chdir(place)
    try:
        main(words)
    except SystemExit as end:
        print("ended with", end.code)
"""


def in_child(before: str, *commands: tuple[str, list[str]]) -> subprocess.CompletedProcess[str]:
    """Commands, each in its folder, one after the other in one process."""
    script, code = f'{before}; exec "$@"', CHILD.format(commands=commands)
    command = ["sh", "-c", script, "sh", sys.executable, "-c", code]
    if before.startswith("mount"):
        command = ["unshare", "-m", *command]
    elif os.geteuid() == 0:  # the root user may write everywhere, unless it gives up that right
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def can(*command: str) -> bool:
    return bool(shutil.which(command[0])) and not subprocess.run(command).returncode


@pytest.mark.parametrize("name", [*MOUNTS, "not allowed"])
def test_a_disk_that_refuses(name: str, tmp_path: Path, bench: Bench) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if name == "not allowed":
        if os.geteuid() == 0 and not can("setpriv", "--bounding-set=-all", "true"):
            pytest.skip("the root user may write everywhere")
        before, remedy = f"chmod 555 {disk}", "Give this user the right to it or choose another"
    elif can("unshare", "-m", "true"):
        options, remedy = MOUNTS[name]
        before = f"mount {options.format(disk)}"
    else:
        pytest.skip("only the root user may mount")
    train = ["train", "relay", *bench.settings(f"out={disk}")]
    done = in_child(before, (str(tmp_path), train), (str(disk), ["doctor"]))
    assert done.stdout.count("ended with 1\n") == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("StorageError: cannot write ")
    assert remedy in done.stderr.rstrip().splitlines()[-1]
    (line,) = (one for one in done.stdout.splitlines() if one.startswith("working folder: "))
    assert remedy in line
