"""docs/agents.md and docs/many.md: their examples run and print what the page says."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def examples(kind: str, page: str = "agents.md") -> list[tuple[str, str]]:
    """The code of a kind, `python` or `python real`, and what it prints."""
    text = (DOCS / page).read_text(encoding="utf-8")
    pattern = rf"```{kind}\n(.*?)```(?:\n\nIt prints:\n\n```\n(.*?)```)?"
    return re.findall(pattern, text, re.DOTALL)


def printed(code: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "agents.md", "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize(("page", "count"), [("agents.md", 9), ("many.md", 2)])
def test_the_examples_print_what_the_page_says(page: str, count: int) -> None:
    names: dict[str, Any] = {}
    found = [(printed(code, names), said) for code, said in examples("python", page)]
    assert len(found) == count
    for told, said in found:
        assert told == said


@pytest.mark.real
def test_the_example_with_real_weights_prints_what_the_page_says() -> None:
    ((code, said),) = examples("python real")
    assert printed(code, {}) == said
