"""Names as names of files: plain ones stay, no two meet, none leads elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import Bench
from unspoken.files import file_name
from unspoken.recipe import load_recipe, measurements
from unspoken.recipe.registry import studies
from unspoken.results import write_page

PLAIN = (
    *("full-text-matched", "no message-none", "handoff, hop 2-restated", "a" * 200, "x"),
    *("full-text, tuned reader-deranged", "sampled notes", "memory", "v1.0_2+b=c@d"),
)
HOSTILE = (
    *("../../x", "/etc/passwd", "..", ".", "", " ", ".hidden", "a/b", "a\\b", "a\0b", "a\nb"),
    *("a.", "a ", "a..", "con", "nul.txt", "Text", "TEXT", "é", "e\u0301", "a" * 201, "a" * 9999),
    *("\ud800", "a:b", "a*", "~", "text~71988c4d8e0803ba", "a/../b", "\u202egpj"),
)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_stays(name: str) -> None:
    assert file_name(name) == name


def is_one_plain_file(name: str) -> bool:
    return (
        Path(name).name == name
        and name.isascii()
        and name.isprintable()
        and name == name.lower()
        and not name.startswith(".")
        and not name.endswith((".", " "))
        and not set(name) & set('/\\:*?"<>|')
        and 0 < len(name) <= 200
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_any_other_name_is_cleaned(name: str) -> None:
    assert file_name(name) != name
    assert is_one_plain_file(file_name(name))


def test_no_two_names_meet_even_where_a_is_taken_for_an_a() -> None:
    every = [*PLAIN, *HOSTILE, *map(str.upper, PLAIN), *(f"{name}." for name in HOSTILE)]
    assert len({file_name(name).casefold() for name in every}) == len(set(every))


@given(st.text(max_size=300), st.text(max_size=300))
def test_whatever_the_names_are(one: str, other: str) -> None:
    assert is_one_plain_file(file_name(one))
    assert file_name(file_name(one)) == file_name(one) or "~" in file_name(one)
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")  # of the picture
def test_no_channel_of_a_recipe_writes_outside_its_folder(bench: Bench) -> None:
    names = ["../../x", f"{bench.home}/elsewhere", "a\0b", "a\nb", "a_b", "Text", "y" * 300]
    channels = [
        {"name": name, "channel": {"kind": "text", "limit": n + 1}} for n, name in enumerate(names)
    ]
    settings = bench.settings(
        "studies={comparison: {}, information: {}}",
        "comparison.limit=3",
        f"comparison.channels={json.dumps(['full-text', *channels])}",
    )
    before = set(bench.home.rglob("*"))
    for one in measurements(load_recipe("relay", settings)):
        one.run()
    made = {path for path in set(bench.home.rglob("*")) - before if bench.out not in path.parents}
    assert {path.relative_to(bench.home).parts[0] for path in made} <= {"out", "cache"}
    for folder in ("predictions", "information"):
        assert all(path.is_file() for path in (bench.out / folder).iterdir())
    found = {path.name for path in (bench.out / "predictions").iterdir()}
    assert found >= {f"{file_name(f'{name}-matched')}.jsonl" for name in names}
    page = write_page(bench.out).read_text(encoding="utf-8")
    assert "are right and others wrong" in page  # the page finds the answers


def test_files_of_studies_are_plain_names() -> None:
    assert all(file_name(study.file) == study.file for study in studies())
