"""CONTRIBUTING.md to the letter, in a copy of the repository: what it prints, where it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from unspoken.testing import tiny_backbone

from ..bench import Bench

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("unspoken", "tests", "docs", "recipes", "benchmarks", "pyproject.toml", "README.md")

BLOCKS = [
    block
    for kind in ("python", "text")
    for block in blocks("CONTRIBUTING.md", kind)
    if block.line > TEXT[: TEXT.index("in six steps\n")].count("\n")
]
"""What `steps` finds: all in the sections of steps."""

OTHERS = ("projector", "comparison", "out")  # of the bench, but not for training
UNSPOKEN = ".venv/bin/python -c 'from unspoken.cli import main; main()'"  # that of the copy

pytestmark = [pytest.mark.dist, pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")]


@dataclass(frozen=True)
class Step:
    """A step: its number, its words, and its blocks of code as (language, content)."""

    number: int
    words: str
    blocks: tuple[tuple[str, str], ...]

    def block(self, language: str) -> str:
        (found,) = (content for name, content in self.blocks if name == language)
        return found

    @property
    def file(self) -> str:
        """The file that the step names first."""
        found = re.search(
            r"`((?:unspoken|tests)/\S+\.py)`|\]\(((?:unspoken|tests)/\S+\.py)\)", self.words
        )
        assert found is not None, self.words
        return found[1] or found[2]


def steps(title: str) -> dict[int, Step]:
    (section,) = (part for part in TEXT.split("\n## ") if part.startswith(title))
    parts = re.split(r"^\*\*(\d)\. ", section, flags=re.M)[1:]
    return {step.number: step for step in _steps(iter(parts))}


def _steps(parts: Iterator[str]) -> Iterator[Step]:
    for number, content in zip(parts, parts, strict=True):
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", content, re.S | re.M)
        words = re.sub(r"^```.*?^```$", "", content, flags=re.S | re.M)
        yield Step(int(number), words, tuple(blocks))


@dataclass(frozen=True)
class Copy:
    """A copy of the repository, in which steps are taken. changed: the files that they changed."""

    home: Path
    changed: list[str] = field(default_factory=list[str])

    def write(self, step: Step) -> None:
        path = self.home / step.file
        self.changed.append(step.file)
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(step.block("python"), encoding="utf-8")

    def insert(self, step: Step) -> None:
        """Put the line of a step into the mapping or tuple that it names."""
        name = re.search(r"One line in `(\w+)`|one line in `(\w+)`", step.words)
        assert name is not None, step.words
        path = self.home / step.file
        opened = rf"^({name[1] or name[2]}\b[^\n]*= ?[({{]\n)"
        text, count = re.subn(
            opened, lambda found: found[1] + step.block("text"), path.read_text(), flags=re.M
        )
        assert count == 1, opened
        path.write_text(text, encoding="utf-8")
        self.changed.append(step.file)

    def run(self, command: str) -> str:
        found = subprocess.run(
            command, shell=True, cwd=self.home, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, f"{command}\n{found.stdout[-4000:]}{found.stderr[-4000:]}"
        return found.stdout

    def check(self, commands: str) -> str:
        """Run commands; for `make check`, what it checks, types in changed files alone."""
        told: list[str] = []
        for command in commands.strip().splitlines():
            parts = [command]
            if command == "make check":
                ours = [name for name in self.changed if name.startswith("unspoken/")]
                pyright = " ".join(["pyright", *ours])
                tools = ("ruff check .", "ruff format --check .", pyright, "lint-imports")
                parts = [f".venv/bin/{tool}" for tool in tools]
            told += map(self.run, parts)
        return "".join(told)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    home = tmp_path / "copy"
    home.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, home)
    (home / ".venv").symlink_to(sys.prefix)
    return Copy(home)


def passed(told: str) -> int:
    found = re.search(r"(\d+) passed", told)
    assert found is not None, told
    return int(found[1])


def test_a_channel_in_six_steps(copy: Copy):
    found = steps("Adding a channel in six steps")
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    copy.write(found[2])
    copy.insert(found[3])
    copy.insert(found[4])
    assert passed(copy.check(found[5].block("sh"))) > 20
    (copy.home / "use.py").write_text(found[6].block("python"))
    assert re.fullmatch(r"\d+ bytes\n", copy.run(".venv/bin/python use.py"))


def test_a_trained_channel_in_seven_steps(copy: Copy, bench: Bench):
    found = steps("Adding a trained channel in seven steps")
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
    copy.write(found[2])
    copy.write(found[3])
    copy.insert(found[4])
    copy.insert(found[5])
    assert passed(copy.check(found[6].block("sh"))) > 10
    sizes = [one for one in bench.settings() if re.split("[.=]", one)[0] not in OTHERS]
    train = found[7].block("sh").strip().replace(".venv/bin/unspoken", UNSPOKEN)
    copy.run(" ".join([train, *(f'"{one}"' for one in (*sizes, "projector.layers=[2]"))]))
    (copy.home / "use.py").write_text(found[7].block("python"))
    assert re.search(r"\d+ bytes\n$", copy.run(".venv/bin/python use.py"))


def test_a_study_in_seven_steps(copy: Copy, tmp_path: Path):
    found = steps("Adding a study in seven steps")
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
    for number in (2, 3, 4, 5, 6):
        copy.write(found[number])
    copy.insert(found[7])
    check, measure = found[7].block("sh").strip().splitlines()
    copy.check(check)
    model = tiny_backbone()
    model.model.config.max_position_embeddings = 4096
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    sizes = [f"agents.{n}.model={tmp_path / 'model'}" for n in range(3)]
    told = copy.run(" ".join([measure.replace(".venv/bin/unspoken", UNSPOKEN), *sizes]))
    assert re.search(r"judge *│? *\d+\.\d", told)
    out = copy.home / "out" / "brevity"
    assert json.loads((out / "brevity.json").read_text())["task"]["items"] == 8
    assert "Who writes how much" in (out / "report.html").read_text()
