"""docs/walk.md: what it shows runs, prints what it says, and touches the files that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.docs.blocks import ROOT, blocks, printed
from unspoken.testing import tiny_backbone

HOME = ROOT / "unspoken"
TEXT = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
BLOCKS = blocks("docs/walk.md", "python")
TOGETHER = [block for block in BLOCKS if "__main__" not in block.code]
(ACROSS,) = (block for block in BLOCKS if "__main__" in block.code)


def part(title: str) -> str:
    (found,) = (one for one in TEXT.split("\n## ") if one.startswith(title))
    return found


def files(words: str) -> list[str]:
    return re.findall(r"\]\(\.\./unspoken/(\S+\.py)\)", words)


@dataclass
class Trace:
    """The files of `unspoken` that run, and those on the stack when a named function is entered."""

    stops: frozenset[str]
    run: set[str] = field(default_factory=set)
    way: set[str] = field(default_factory=set)
    entered: list[str] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        file = _file(frame)
        if event != "call" or file is None:
            return
        self.run.add(file)
        if (name := frame.f_code.co_qualname) in self.stops:
            if name not in self.entered:
                self.entered.append(name)
            self.way.update(_stack(frame))


def _file(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(HOME).as_posix() if path.is_relative_to(HOME) else None


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        if (file := _file(frame)) is not None:
            yield file
        frame = frame.f_back


@contextmanager
def traced(trace: Trace) -> Iterator[None]:
    before = sys.getprofile(), threading.getprofile()
    sys.setprofile(trace)
    threading.setprofile(trace)  # the scheduler's thread begins with the first word
    try:
        yield
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])


@pytest.fixture(scope="module")
def told() -> tuple[list[str], dict[str, Any]]:
    """What each example printed, and the names that they left behind."""
    names: dict[str, Any] = {}
    told = [printed(block.code, str(block), names) for block in TOGETHER]
    return told, names


def test_the_examples_print_what_the_page_says(told: tuple[list[str], dict[str, Any]]):
    said = [block.said for block in TOGETHER]
    assert told[0] == said
    assert len([words for words in said if words]) == 2


@pytest.fixture(scope="module", params=[True, False], ids=["verbatim", "written"])
def trace(request: pytest.FixtureRequest, told: tuple[list[str], dict[str, Any]]) -> Trace:
    """A run of the example; its sender sends what it was told, or writes.

    The models are new, since other examples of the page leave hooks, and have run before.
    """
    names = told[1]
    channel = names["TextChannel"](verbatim=request.param)
    edge = names["Edge"]("reader", "solver", channel)
    kinds = {"reader": "gemma", "solver": "llama"}
    agents = [replace(names[name], model=tiny_backbone(kind)) for name, kind in kinds.items()]
    pipeline = names["Pipeline"](agents, [edge])
    item = {"context": "The key is in the attic.", "question": "Where is the key?"}
    pipeline.run(item)
    found = Trace(frozenset(functions()))
    with traced(found):
        pipeline.run(item)
    return found


def functions() -> list[str]:
    rows = [row for row in part("The ten files").splitlines() if row.startswith("| [")]
    return [name for row in rows for name in re.findall(r"`(\S+?)`", row)]


def test_the_way_leads_through_the_files_of_the_table_and_no_other(trace: Trace):
    table, _, others = part("The ten files").partition("more files run")
    assert sorted(trace.way) == sorted(files(table))
    assert len(trace.way) <= 10
    assert sorted(trace.run - trace.way) == sorted(files(others))


def test_every_function_of_the_table_is_entered(trace: Trace):
    assert sorted(trace.entered) == sorted(functions())


def test_the_picture_names_every_file_of_the_way(trace: Trace):
    picture = part("The picture")
    shown = {file for file in trace.way if not file.startswith("channels/")}
    assert all(file in picture for file in shown)
    assert "channels/*.py" in picture


@pytest.mark.real
@pytest.mark.dist
def test_the_example_across_processes_answers(tmp_path: Path):
    (tmp_path / "across.py").write_text(ACROSS.code, encoding="utf-8")
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "across.py"], cwd=tmp_path, env=paths, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "Paris" in told.stdout
