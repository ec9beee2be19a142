"""The README's example, and those in examples/, print what they say."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def printed(code: str, name: str) -> list[str]:
    names: dict[str, Any] = {"__name__": "__main__"}
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, name, "exec"), names)
    return out.getvalue().splitlines()


@pytest.mark.real
def test_the_example_prints_what_the_readme_says():
    pattern = r"```python\n([^`]*)```\n\nIt prints:\n\n```text\n([^`]*)```"
    ((code, said),) = re.findall(pattern, README.read_text(encoding="utf-8"))
    assert len(code.splitlines()) <= 12
    told = printed(code, "README.md")
    assert told == said.splitlines()
    assert [line.partition(":")[0] for line in told] == ["text", "handoff"]
    assert all("in the blue bowl" in line for line in told)
    assert code in (ROOT / "examples" / "two_agents.py").read_text(encoding="utf-8")


@pytest.mark.real
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_its_last_lines_say(path: Path):
    text = path.read_text(encoding="utf-8")
    said = [line[2:] for line in text.partition("\n# It prints:\n")[2].splitlines()]
    assert said
    assert printed(text, path.name) == said


def test_the_tutorials_show_each_example_and_what_it_prints():
    page = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 8
    for path in EXAMPLES:
        code, _, said = path.read_text(encoding="utf-8").partition("\n# It prints:\n")
        lines = "".join(f"{line[2:]}\n" for line in said.splitlines())
        body = code.split('"""', 2)[2].strip()
        assert f"```python\n{body}\n```\n\nIt prints:\n\n```text\n{lines}```\n" in page, path.name


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
