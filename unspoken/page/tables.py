"""Tables of a page: cells that say something, and a value to sort them by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information
from unspoken.page.found import Found
from unspoken.studies.rate.report import RateReport
from unspoken.studies.reuse.report import ReuseReport

__all__ = ["Cell", "Table", "arms", "bits", "costs", "rates", "ways"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a cell, and by what it is sorted."""

    text: str
    value: float | str

    @property
    def number(self) -> bool:
        return not isinstance(self.value, str)

    @classmethod
    def of(cls, value: float, form: str) -> Cell:
        return cls(format(value, form), value)

    @classmethod
    def word(cls, text: str) -> Cell:
        return cls(text, text)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted by each of its columns; the first cell of a row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def numeric(self, column: int) -> bool:
        return all(row[column].number for row in self.rows)


def arms(arms: Sequence[Arm], what: str = "channel") -> Table:
    """Every arm of a comparison: accuracy, and what an item costs over all agents."""
    head = (what, "condition", "% right (95 %)", "tokens read", "written", "passes")
    return Table(
        caption="Every arm; costs are means for each item, over all agents",
        head=(*head, "bytes sent", "seconds"),
        rows=tuple(
            (
                Cell.word(arm.channel),
                Cell.word(arm.condition),
                Cell(_percent(arm.accuracy, arm.ci_low, arm.ci_high), arm.accuracy),
                Cell.of(arm.tokens_read, ",.0f"),
                Cell.of(arm.tokens_written, ",.1f"),
                Cell.of(arm.passes, ",.1f"),
                Cell.of(arm.wire_bytes, ",.0f"),
                Cell.of(arm.seconds, ".2f"),
            )
            for arm in arms
        ),
    )


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def bits(channels: Iterable[Information]) -> Table:
    """Usable bits of each channel's messages, and for what size."""
    head = ("channel", "bits", "deranged", "PVI", "identified %", "positions", "bytes")
    return Table(
        caption="Usable bits of a message; means over items",
        head=(*head, "bits / position", "bits / KiB"),
        rows=tuple(
            (
                Cell.word(one.channel),
                Cell.of(one.bits.value, ".2f"),
                Cell.of(one.deranged.value, ".2f"),
                Cell.of(one.pvi.value, ".2f"),
                Cell.of(100 * one.identified, ".0f"),
                Cell.of(one.positions, ".1f"),
                Cell.of(one.wire, ",.0f"),
                Cell.of(one.per_position, ".3f"),
                Cell.of(one.per_kib, ".3g"),
            )
            for one in channels
        ),
    )


def costs(found: Found, arms: Sequence[Arm]) -> Table | None:
    """What each agent spends on an item when it hears the right message; None if not recorded."""
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        spent = [row.get("costs", {}) for row in found.predictions(arm)]
        for agent in spent[0] if all(spent) and spent else ():
            read, written, passes, wire, seconds = (
                fmean(float(one[agent][name]) for one in spent)
                for name in ("read", "written", "passes", "wire", "seconds")
            )
            rows.append(
                (
                    Cell.word(arm.channel),
                    Cell.word(agent),
                    Cell.of(read, ",.0f"),
                    Cell.of(written, ",.1f"),
                    Cell.of(passes, ",.1f"),
                    Cell.of(wire, ",.0f"),
                    Cell.of(seconds, ".2f"),
                )
            )
    head = ("channel", "agent", "tokens read", "written", "passes", "bytes sent", "seconds")
    caption = "Means for each item, with the right message"
    return Table(caption, head, tuple(rows)) if rows else None


def rates(report: RateReport) -> Table:
    """Every point of the curves of rate and distortion."""
    return Table(
        caption="Every point of the curves",
        head=("curve", "setting", "positions", "bytes", "bits (95 %)", "wrong % (95 %)"),
        rows=tuple(
            (
                Cell.word(point.curve),
                Cell.word(point.setting),
                Cell(cells[2], point.positions),
                Cell(cells[3], point.wire),
                Cell(cells[4], point.bits.value),
                Cell(cells[5], point.distortion),
            )
            for point, cells in zip(report.points, report.rows(), strict=True)
        ),
    )


def ways(report: ReuseReport) -> Table:
    """Every way to read, dense or from a pool."""
    dense = report.arms[0]
    return Table(
        caption="Ways to read; the wait is the median time to a first token, over all agents",
        head=("way", "% right (95 %)", "wait, s", "times faster", "reused %"),
        rows=tuple(
            (
                Cell.word(arm.way),
                Cell(_percent(arm.accuracy, arm.ci_low, arm.ci_high), arm.accuracy),
                Cell.of(arm.request, ".2f"),
                Cell.of(dense.request / arm.request, ".1f"),
                Cell.of(100 * arm.reused, ".0f"),
            )
            for arm in report.arms
        ),
    )
