"""Pages whose examples run on tiny models: they run in order and print what the page says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import blocks, printed

COUNTS: Mapping[str, int] = {
    "docs/agents.md": 9,
    "docs/many.md": 2,
    "docs/messages.md": 1,
    "docs/planner-executor.md": 1,
}
TINY = {page: blocks(page, "python") for page in COUNTS}
(REAL,) = blocks("docs/agents.md", "python real")
BLOCKS = [*(block for page in TINY.values() for block in page), REAL]


@pytest.mark.parametrize("page", COUNTS)
def test_the_examples_print_what_the_page_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(TINY[page]) == COUNTS[page]
    for block in TINY[page]:
        assert printed(block.code, str(block), names) == block.said


@pytest.mark.real
def test_the_example_with_real_weights_prints_what_the_page_says() -> None:
    assert printed(REAL.code, str(REAL), {}) == REAL.said
