"""Every promise of docs/security.md names a test, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.split("\n") if line.startswith("| ")][1:]


def test_every_promise_names_a_test_that_is_there():
    assert len(ROWS) > 15
    for row in ROWS:
        found = re.search(r"\| \[\S+\]\(\.\./(\S+)\) `(test_\w+)` \|$", row)
        assert found, row
        tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert found[2] in names, row


def test_the_page_is_found_from_the_front():
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "SECURITY.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(security.md)" in (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
