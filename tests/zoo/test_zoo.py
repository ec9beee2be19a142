"""Every family that transformers knows, judged by plain transformers; see docs/models.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from .judge import VERDICTS, judge
from .models import MORE, NAMES, NOT_BUILT
from .page import known

pytestmark = pytest.mark.filterwarnings("default")  # those of families are not ours

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
SOME = ("llama", "gemma3", "mamba", "lora")
BUILT = tuple(name for name in (*NAMES, *MORE) if name not in NOT_BUILT)


def judged(name: str) -> None:
    found = judge(name)
    bad = {c: f for c, f in found.items() if f.verdict in ("wrong", "raw", "blind", "not built")}
    assert not bad
    marks = "".join(VERDICTS[one.verdict] for one in found.values())
    assert marks == known(PAGE.read_text(encoding="utf-8"))[name]


def test_a_family_of_a_new_release_is_built_or_says_why_not():
    assert set(known(PAGE.read_text(encoding="utf-8"))) == set(BUILT)


@pytest.mark.parametrize("name", SOME)
def test_some_families_do_as_the_page_says(name: str):
    judged(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [name for name in BUILT if name not in SOME])
def test_all_families_do_as_the_page_says(name: str):
    judged(name)
