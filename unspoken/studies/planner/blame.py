"""Whose fault a wrong answer is: the planner's, or the executor's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.errors import DataError
from unspoken.files import write_text
from unspoken.tasks import normalise

__all__ = ["Blame", "attribute", "holds", "save", "table"]


@dataclass(frozen=True, slots=True)
class Blame:
    """The answers of one arm over n items, and what was wrong with those that are wrong.

    By an oracle executor, which finds the answer wherever it stands: `plan` of the wrong answers
    came after a plan that does not hold an accepted answer, `execution` after one that does. By an
    oracle plan: `oracle_plan` of them become right when the executor reads the fact itself. The two
    may differ: a plan can hold the answer in words that this executor cannot use.
    """

    channel: str
    n: int
    right: int
    plan: int
    execution: int
    oracle_plan: int

    @property
    def wrong(self) -> int:
        return self.n - self.right


def holds(plan: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer stands in a plan, whole words, both normalised.

    >>> holds("Ada keeps the parrot.", ["parrot"]), holds("Ada keeps parrots.", ["parrot"])
    (True, False)
    """
    said = f" {normalise(plan)} "
    return any(f" {normalise(answer)} " in said for answer in answers)


def attribute(out: Path, channels: Sequence[str], planner: str, oracle: str) -> list[Blame]:
    """Blame for each channel of a comparison, from the predictions that it left in `out`.

    planner: the agent whose words are the plan; a channel over which it wrote none is left out.
    oracle: the channel over which the executor reads the fact. Raises `DataError` if an arm is
    missing.
    """
    best = {row["id"]: bool(row["correct"]) for row in _rows(out, oracle)}
    found: list[Blame] = []
    for channel in channels:
        rows = _rows(out, channel)
        if not all(planner in row["messages"] for row in rows):
            continue
        wrong = [row for row in rows if not row["correct"]]
        held = sum(holds(row["messages"][planner], row["answers"]) for row in wrong)
        swapped = sum(best[row["id"]] for row in wrong)
        right = len(rows) - len(wrong)
        found.append(Blame(channel, len(rows), right, len(wrong) - held, held, swapped))
    return found


def table(blames: Sequence[Blame]) -> Table:
    """The table for a terminal."""
    heads = ("right", "wrong", "plan lacks the answer", "executor misses it", "oracle plan helps")
    shown = Table(title="whose fault", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column("channel")
    for head in heads:
        shown.add_column(head, justify="right")
    for one in blames:
        cells = (one.right, one.wrong, one.plan, one.execution, one.oracle_plan)
        shown.add_row(one.channel, *map(str, cells))
    return shown


def save(blames: Sequence[Blame], out: Path) -> None:
    """Write attribution.json."""
    content = [asdict(one) for one in blames]
    write_text(out / "attribution.json", json.dumps(content, indent=1) + "\n")


def _rows(out: Path, channel: str) -> list[Mapping[str, Any]]:
    path = out / "predictions" / f"{channel}-matched.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} holds no predictions ({error}); compare the channel {channel!r} first"
        ) from error
