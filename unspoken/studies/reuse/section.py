"""What a page shows of dense reads and pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Cell, Points, Section, Table, percent
from unspoken.studies.reuse.report import ReuseReport

__all__ = ["sections", "summary"]


def summary(report: ReuseReport) -> str:
    """The pool with the shortest wait, beside dense reads."""
    dense = report.arms[0]
    best = min(report.arms[1:], key=lambda arm: arm.request)
    return (
        f"“{best.way}” waits {best.request:.2f} s for its first words and {dense.way} reads "
        f"{dense.request:.2f} s; {100 * best.accuracy:.0f} % are right instead of "
        f"{100 * dense.accuracy:.0f} %."
    )


def sections(report: ReuseReport, folder: Path) -> Iterator[Section]:
    parts = (_ways(report), Points(report.findings()))
    yield Section("reuse", "Dense reads and pools of caches", parts)


def _ways(report: ReuseReport) -> Table:
    """Every way to read, dense or from a pool."""
    dense = report.arms[0]
    return Table(
        caption="Ways to read; the wait is the median time to a first token, over all agents",
        head=("way", "% right (95 %)", "wait, s", "times faster", "reused %"),
        rows=tuple(
            (
                Cell.word(arm.way),
                Cell(percent(arm.accuracy, arm.ci_low, arm.ci_high), arm.accuracy),
                Cell.of(arm.request, ".2f"),
                Cell.of(dense.request / arm.request, ".1f"),
                Cell.of(100 * arm.reused, ".0f"),
            )
            for arm in report.arms
        ),
    )
