"""What a page shows of a planner and an executor."""

from __future__ import annotations

from pathlib import Path

from unspoken.evaluation.result import about_machine
from unspoken.page import Table
from unspoken.studies.planner import Blame, PlannerReport
from unspoken.studies.planner.section import sections


def test_every_count_is_in_the_table() -> None:
    blame = (Blame("text", 9, 4, 2, 3, 1), Blame("memory", 9, 5, 0, 4, 2))
    report = PlannerReport(blame=blame, models=[], task={}, seed=0, notes={}, **about_machine())
    (section,) = sections(report, Path())
    (table,) = (part for part in section.parts if isinstance(part, Table))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["text", "4", "5", "2", "3", "1"],
        ["memory", "5", "4", "0", "4", "2"],
    ]
    assert all(len(row) == len(table.head) for row in table.rows)
