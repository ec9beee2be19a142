"""The fenced blocks of README and of the pages, and the commands in their sentences."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PAGES", "ROOT", "Block", "blocks", "commands", "printed"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*?) -->\n+)?"
    r"^ *```(?P<kind>[^\n]*)\n(?P<code>.*?)^ *```$"
    r"(?P<prints>\n\nIt prints:\n\n```(?:text)?\n(?P<said>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
_COMMAND = re.compile(
    r"`((?:\w+=\S+ )?(?:\.venv/bin/)?(?:unspoken|python|pip|make|pytest|pyright|ruff) [^`]*)`"
)


@dataclass(frozen=True)
class Block:
    """kind: what follows the fence, such as `python`; said: what the page says that it prints.

    reason: why no test runs it, from the comment before it.
    """

    page: str
    line: int
    kind: str
    code: str
    said: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.kind or 'no language'})"


def blocks(page: str, kind: str | None = None, home: Path = ROOT) -> list[Block]:
    """Each block of a page, or each of a kind. What a block prints is a part of it."""
    text = (home / page).read_text(encoding="utf-8")
    found = list(_blocks(page, text))
    return [one for one in found if kind is None or (one.kind == kind and not one.reason)]


def _blocks(page: str, text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("kind")) + 1
        told = (found["said"] or "", found["reason"] or "")
        yield Block(page, line, found["kind"].strip(), found["code"], *told)


def commands(page: str) -> Iterator[str]:
    """Each command that a reader may copy: of a shell's block, or in a sentence."""
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            yield from filter(None, map(str.strip, _uncommented(line).split(" && ")))
    words = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for found in _COMMAND.findall(words):
        yield " ".join(found.split())


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def printed(code: str, name: str, names: dict[str, Any]) -> str:
    """Run code, and return what it prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, name, "exec"), names)
    return out.getvalue()
