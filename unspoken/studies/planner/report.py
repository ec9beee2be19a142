"""Whose fault wrong answers are, as a table and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.result import Result, write_result

__all__ = ["Blame", "PlannerReport"]


@dataclass(frozen=True, slots=True)
class Blame:
    """The answers of one arm over n items, and what was wrong with those that are wrong.

    By an oracle executor, which finds the answer wherever it is: `plan` of the wrong answers
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


@dataclass(frozen=True, repr=False)
class PlannerReport(Result):
    """Whose fault the wrong answers over each channel are: the planner's, or the executor's."""

    blame: tuple[Blame, ...]

    def to_dict(self) -> dict[str, Any]:
        """The content of blame.json."""
        return asdict(self)

    def table(self) -> Table:
        """The table for a terminal."""
        shown = Table(title="whose fault", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        shown.add_column("channel")
        for head in _COLUMNS:
            shown.add_column(head, justify="right")
        for one in self.blame:
            cells = (one.right, one.wrong, one.plan, one.execution, one.oracle_plan)
            shown.add_row(one.channel, *map(str, cells))
        return shown

    def findings(self) -> list[str]:
        """A sentence for each channel over which there were wrong answers."""
        return [
            f"{one.channel}: of {one.wrong} wrong answers {one.plan} came after a plan that lacks "
            f"the answer, and {one.execution} after one that holds it"
            for one in self.blame
            if one.wrong
        ]

    def save(self, out: str | Path) -> None:
        """Write blame.json, whole or not at all."""
        write_result(Path(out, "blame.json"), self.to_dict())


_COLUMNS = ("right", "wrong", "plan lacks the answer", "executor misses it", "oracle plan helps")
