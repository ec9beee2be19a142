"""What a page shows of a planner and an executor: whose fault wrong answers are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Cell, Section, Table
from unspoken.studies.planner.report import Blame, PlannerReport

__all__ = ["sections", "summary"]


def summary(report: PlannerReport) -> str:
    """The channel with the most right answers, and whose fault its wrong ones are."""
    best = max(report.blame, key=lambda one: one.right / one.n)
    return (
        f"“{best.channel}” has the most right answers, {best.right} of {best.n}; of its "
        f"{best.wrong} wrong ones {best.plan} came after a plan that lacks the answer."
    )


def sections(report: PlannerReport, folder: Path) -> Iterator[Section]:
    yield Section("blame", "Whose fault", (_ABOUT, _table(report)))


_ABOUT = (
    "A plan lacks the answer if no accepted answer is in it. Otherwise the executor misses it. An "
    "oracle plan helps where the executor is right once it reads the fact itself."
)


def _table(report: PlannerReport) -> Table:
    return Table(
        caption="Wrong answers over each channel, by what was wrong",
        head=("channel", "right", "wrong", *_REASONS),
        rows=tuple((Cell.word(one.channel), *_counts(one)) for one in report.blame),
    )


_REASONS = ("plan lacks the answer", "executor misses it", "oracle plan helps")


def _counts(one: Blame) -> Iterator[Cell]:
    for count in (one.right, one.wrong, one.plan, one.execution, one.oracle_plan):
        yield Cell.of(count, "d")
