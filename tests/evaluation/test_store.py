"""Measurements that are kept: found again by their key, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from unspoken import kept
from unspoken.evaluation.arm import Prediction
from unspoken.evaluation.statistics import Interval
from unspoken.evaluation.store import Store
from unspoken.types import Usage

KEPT = Interval(0.25, 1)  # an end that is no float, as a sum of integers
ROWS = [
    Prediction(
        id=f"q{n}",
        question="What?",
        answers=("a cat", "cats"),
        prediction="a\u2028b\x85c é",
        correct=bool(n),
        messages={"sender": "words"},
        message_of=f"q{n}",
        usage=Usage(read=3, seconds=0.5),
        costs={"sender": Usage(read=1), "receiver": Usage(read=2, seconds=0.5)},
    )
    for n in range(2)
]


def never() -> Interval:
    raise AssertionError("it is known")


def test_without_a_folder_what_was_measured_is_remembered() -> None:
    store = Store()
    assert store.find("one.json", "k", Interval) is None
    assert store.get("one.json", "k", Interval, lambda: KEPT) == KEPT
    assert store.get("two.json", "k", Interval, never) == KEPT
    assert store.find("one.json", "other", Interval) is None
    assert store.find("one.json", "k", Usage) is None  # of another kind
    assert Store().find("one.json", "k", Interval) is None


def test_a_folder_keeps_it_for_the_next_process(tmp_path: Path) -> None:
    Store(tmp_path).get("deep/one.json", "k", Interval, lambda: KEPT)
    assert Store(tmp_path).get("deep/one.json", "k", Interval, never) == KEPT
    content = json.loads((tmp_path / "deep" / "one.json").read_text())
    assert kept.opened(content, tmp_path) == {"key": "k", "found": {"low": 0.25, "high": 1}}
    assert set(content) == {"key", "found", "sha256"}


def test_what_is_known_by_another_name_is_written_under_this_one_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("one.json", "two.json"):
        store.get(name, "k", Interval, lambda: KEPT)
    assert Store(tmp_path).find("two.json", "k", Interval) == KEPT


def test_rows_stand_in_lines_and_each_has_the_key(tmp_path: Path) -> None:
    Store(tmp_path).keep("rows.jsonl", "k", list[Prediction], ROWS)
    lines = (tmp_path / "rows.jsonl").read_bytes().split(b"\n")
    assert lines[-1] == b""
    rows = [json.loads(line) for line in lines[:-1]]
    assert [(row["arm"], row["id"], row["correct"]) for row in rows] == [
        ("k", "q0", False),
        ("k", "q1", True),
    ]
    assert rows[0]["usage"]["seconds"] == 0.5
    assert Store(tmp_path).find("rows.jsonl", "k", list[Prediction]) == ROWS
    assert Store(tmp_path).find("rows.jsonl", "j", list[Prediction]) is None


@dataclass(frozen=True)
class Later:
    """What a later version keeps in place of an interval: one more field, with a default."""

    low: float
    high: float
    level: float = 0.95


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-4],
        lambda text: "[]",
        lambda text: "3",
        lambda text: text.replace('"key"', '"kee"'),
        lambda text: text.replace('"k"', '"other"'),
        lambda text: text.replace('"low"', '"lo"'),
        lambda text: text.replace('"low"', '"more": 1, "low"'),
        lambda text: text.replace("0.25", '"0.25"'),
        lambda text: text.replace("0.25", "null"),
    ],
)
def test_what_is_not_as_it_was_written_counts_as_nothing(
    damage: Callable[[str], str], tmp_path: Path
) -> None:
    store, path = Store(tmp_path), tmp_path / "one.json"
    store.keep("one.json", "k", Interval, KEPT)
    path.write_text(damage(path.read_text()))
    with pytest.warns(UserWarning, match=r"one\.json is damaged.* It is made anew"):
        assert Store(tmp_path).get("one.json", "k", Interval, lambda: Interval(0, 0)).high == 0
    assert (tmp_path / "one.json.damaged").exists()
    assert Store(tmp_path).find("one.json", "k", Interval) == Interval(0, 0)


@pytest.mark.parametrize("name", ["one.json", "rows.jsonl"])
def test_what_version_one_wrote_is_found(name: str, tmp_path: Path) -> None:
    kind: Any = Interval if name == "one.json" else list[Prediction]
    Store(tmp_path).keep(name, "k", kind, KEPT if name == "one.json" else ROWS)
    path = tmp_path / name
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    for line in lines:
        assert len(line.pop("sha256")) == 64
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Store(tmp_path).find(name, "k", kind) is not None


@pytest.mark.parametrize("change", ["word", "dropped", "turned", "mixed"])
def test_lines_that_are_not_as_they_were_written_count_as_nothing(
    change: str, tmp_path: Path
) -> None:
    store, path = Store(tmp_path), tmp_path / "rows.jsonl"
    store.keep("rows.jsonl", "k", list[Prediction], ROWS)
    lines = path.read_bytes().split(b"\n")[:-1]
    changed = {
        "word": [lines[0].replace(b"words", b"wards"), lines[1]],
        "dropped": lines[:1],
        "turned": lines[::-1],
        "mixed": [lines[0], lines[1].replace(b"sha256", b"sha255")],
    }[change]
    path.write_bytes(b"".join(line + b"\n" for line in changed))
    with pytest.warns(UserWarning, match=r"rows\.jsonl is damaged"):
        assert Store(tmp_path).find("rows.jsonl", "k", list[Prediction]) is None


def test_what_another_version_wrote_counts_as_nothing(tmp_path: Path) -> None:
    Store(tmp_path).keep("one.json", "k", Interval, KEPT)
    assert Store(tmp_path).find("one.json", "k", Later) is None


def test_what_does_not_fit_is_measured_again(tmp_path: Path) -> None:
    Store(tmp_path).keep("one.json", "k", Interval, KEPT)
    store = Store(tmp_path)
    assert store.find("one.json", "k", Interval, lambda found: found.low > 0.5) is None
    wide = replace(KEPT, low=0.75)
    assert store.get("one.json", "k", Interval, lambda: wide, lambda found: found.low > 0.5) == wide
    assert Store(tmp_path).find("one.json", "k", Interval) == wide


def test_a_folder_in_the_place_of_a_file_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "one.json").mkdir()
    with pytest.warns(UserWarning, match=r"one\.json is damaged: it is no file"):
        assert Store(tmp_path).get("one.json", "k", Interval, lambda: KEPT) == KEPT
    assert (tmp_path / "one.json").is_file()
