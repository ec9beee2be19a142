"""The README's example, and those in examples/, print what they say. Pages show them whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, printed

README = ROOT / "README.md"
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if not path.stem.startswith("_")
)
(FRONT,) = blocks("README.md", "python")
TUTORIALS = blocks("docs/tutorials.md", "python")
POOLS = blocks("docs/pools.md", "python")
BLOCKS = [FRONT, *TUTORIALS, *POOLS]


def body(path: Path) -> str:
    """The code of an example, as a page shows it: without its first words."""
    code = path.read_text(encoding="utf-8").partition("\n# It prints:\n")[0]
    return code.split('"""', 2)[2].strip() + "\n"


def said(path: Path) -> str:
    """What an example says that it prints, in its last lines."""
    words = path.read_text(encoding="utf-8").partition("\n# It prints:\n")[2]
    return "".join(f"{line[2:]}\n" for line in words.splitlines())


@pytest.mark.real
def test_the_example_prints_what_the_readme_says():
    assert len(FRONT.code.splitlines()) <= 12
    told = printed(FRONT.code, str(FRONT), {})
    assert told == FRONT.said
    assert [line.partition(":")[0] for line in told.splitlines()] == ["text", "handoff"]
    assert all("in the blue bowl" in line for line in told.splitlines())


@pytest.mark.real
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_its_last_lines_say(path: Path):
    assert said(path)
    names = {"__name__": "__main__"}
    assert printed(path.read_text(encoding="utf-8"), path.name, names) == said(path)


def shown() -> Iterator[tuple[str, str]]:
    for path in EXAMPLES:
        yield body(path), said(path)


def test_pages_show_examples_and_what_they_print():
    known = list(shown())
    assert len(known) >= 10
    assert sorted((one.code, one.said) for one in TUTORIALS) == sorted(known)
    assert FRONT.code == body(ROOT / "examples" / "two_agents.py")
    assert all((one.code, one.said) in known for one in (FRONT, *POOLS))


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
