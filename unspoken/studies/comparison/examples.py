"""Items on which channels disagree: what was asked, what is right, and what each answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.errors import Damaged, DataError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.store import read_rows
from unspoken.files import file_name
from unspoken.page import Answer, Example, Examples
from unspoken.studies.comparison.report import Compared

__all__ = ["disagreements", "predictions"]


def predictions(folder: Path, arm: Arm) -> Sequence[dict[str, Any]]:
    """The answers of an arm, item by item; none if they are missing or of another run.

    Raises `DataError` if they are damaged.
    """
    path = folder / "predictions" / f"{file_name(f'{arm.channel}-{arm.condition}')}.jsonl"
    if not path.exists():
        return ()
    try:
        rows = read_rows(path)
    except (Damaged, OSError) as error:
        raise DataError(f"{error}; run the command again that wrote it") from error
    if not all(row.keys() >= _ANSWER for row in rows):
        return ()
    right = sum(bool(row["correct"]) for row in rows)
    return rows if (len(rows), right) == (arm.n, round(arm.accuracy * arm.n)) else ()


_ANSWER = {"id", "question", "answers", "prediction", "correct", "messages", "message_of"}


def disagreements(
    report: Compared, folder: Path, most: int = 8
) -> tuple[str, Examples] | tuple[str] | None:
    """On how many items channels disagree, and at most `most` of them; None without answers.

    Items on which right and wrong are most even come first, equal ones in the order of the items.
    """
    rows = {
        (arm.channel, arm.condition): predictions(folder, arm)
        for arm in report.arms
        if arm.condition in ("matched", "deranged")
    }
    channels = [name for name in report.channels if rows.get((name, "matched"))]
    if len(channels) < 2:
        return None
    n = len(rows[channels[0], "matched"])
    split = _split(n, channels, rows)
    counted = f"Some channels are right and others wrong on {len(split)} of {n} items."
    if not split:
        return (counted,)
    shown = tuple(_example(item, channels, rows) for item in split[:most])
    which = "They are" if len(shown) == len(split) else f"{len(shown)} of them are"
    return f"{counted} {which} below, the most evenly divided first.", Examples(_HEAD, _READ, shown)


_HEAD = ("channel", "after the right message", "after another item’s")
_READ = "what it read"

_Rows = Mapping[tuple[str, str], Sequence[dict[str, Any]]]


def _split(n: int, channels: Sequence[str], rows: _Rows) -> list[int]:
    """The items on which channels disagree, the most evenly divided first."""
    right = [
        sum(bool(rows[name, "matched"][item]["correct"]) for name in channels) for item in range(n)
    ]
    found = [item for item, count in enumerate(right) if 0 < count < len(channels)]
    return sorted(found, key=lambda item: abs(2 * right[item] - len(channels)))


def _example(item: int, channels: Sequence[str], rows: _Rows) -> Example:
    first = rows[channels[0], "matched"][item]
    return Example(
        question=str(first["question"]),
        wanted=" / ".join(map(str, first["answers"])),
        rows=tuple(_answers(name, item, rows) for name in channels),
    )


def _answers(
    name: str, item: int, rows: _Rows
) -> tuple[str, str, tuple[Answer | None, Answer | None]]:
    matched, deranged = rows[name, "matched"][item], rows.get((name, "deranged"), ())
    read = "\n".join(str(words).strip() for words in matched.get("messages", {}).values())
    return name, read, (_answer(matched), _answer(deranged[item]) if deranged else None)


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(str(row["prediction"]), bool(row["correct"]))
