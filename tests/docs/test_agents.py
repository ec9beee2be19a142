"""docs/agents.md and docs/many.md: their examples run and print what the page says."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["agents.md", "many.md"])
def test_the_examples_print_what_the_page_says(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    examples = re.findall(
        r"```python\n(.*?)```(?:\n\nIt prints:\n\n```\n(.*?)```)?", text, re.DOTALL
    )
    assert len(examples) == 2
    names: dict[str, Any] = {}
    for code, said in examples:
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile(code, page, "exec"), names)
        assert out.getvalue() == said
