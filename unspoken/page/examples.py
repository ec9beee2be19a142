"""Items on which channels disagree: what was asked, what is right, and what each answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unspoken.page.found import Found
from unspoken.studies.comparison.report import Compared

__all__ = ["Answer", "Disagreements", "Example", "disagreements"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whether it is right, and the words that were heard for it, if there were any."""

    text: str
    right: bool
    heard: str


@dataclass(frozen=True, slots=True)
class Example:
    """One item; for each channel the answer behind the right message and behind another item's."""

    question: str
    wanted: str
    answers: tuple[tuple[str, Answer, Answer | None], ...]


@dataclass(frozen=True, slots=True)
class Disagreements:
    """On how many of n items channels disagree, and the most evenly divided of them."""

    count: int
    n: int
    shown: tuple[Example, ...]


def disagreements(found: Found, compared: Compared, most: int = 8) -> Disagreements | None:
    """At most `most` items that some channels get right and others wrong; None without answers.

    Those come first on which right and wrong are most even; among equals the order of the items.
    """
    rows = {
        (arm.channel, arm.condition): found.predictions(arm)
        for arm in compared.arms
        if arm.condition in ("matched", "deranged")
    }
    channels = [name for name in compared.channels if rows.get((name, "matched"))]
    if len(channels) < 2:
        return None
    n = len(rows[channels[0], "matched"])
    right = {
        item: sum(bool(rows[name, "matched"][item]["correct"]) for name in channels)
        for item in range(n)
    }
    split = [item for item, count in right.items() if 0 < count < len(channels)]
    split.sort(key=lambda item: abs(2 * right[item] - len(channels)))
    shown = tuple(_example(item, channels, rows) for item in split[:most])
    return Disagreements(len(split), n, shown)


_Rows = dict[tuple[str, str], Sequence[dict[str, Any]]]


def _example(item: int, channels: Sequence[str], rows: _Rows) -> Example:
    first = rows[channels[0], "matched"][item]
    return Example(
        question=str(first["question"]),
        wanted=" / ".join(map(str, first["answers"])),
        answers=tuple(
            (
                name,
                _answer(rows[name, "matched"][item]),
                _answer(found[item]) if (found := rows.get((name, "deranged"), ())) else None,
            )
            for name in channels
        ),
    )


def _answer(row: dict[str, Any]) -> Answer:
    heard = "\n".join(str(words).strip() for words in row.get("messages", {}).values())
    return Answer(str(row["prediction"]), bool(row["correct"]), heard)
