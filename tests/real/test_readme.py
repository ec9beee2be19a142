"""The README's example runs as it stands, and is as short as it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

README = Path(__file__).parents[2] / "README.md"


def test_the_example_prints_an_answer_and_its_cost_for_each_channel(capsys: pytest.CaptureFixture):
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert example is not None
    code = example[1]
    assert len(code.splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if "Usage(" in line]
    assert [line.split()[0] for line in lines] == ["text", "handoff"]
    assert all(re.search(r"\w+.*Usage\(read=[1-9]\d*, written=[1-9]\d*", line) for line in lines)
