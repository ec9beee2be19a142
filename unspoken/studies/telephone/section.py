"""What a page shows of a telephone game."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Cell, Dot, Guide, Line, Lines, Panel, Points, Scale, Section, Table
from unspoken.studies.telephone.report import Hop, TelephoneReport

__all__ = ["chart", "sections", "summary"]


def summary(report: TelephoneReport) -> str:
    """The channel over which the most is left at the last hop."""
    name, hops = max(report.channels.items(), key=lambda one: one[1][-1].matched.accuracy)
    first, last = hops[0], hops[-1]
    return (
        f"The most is left over “{name}”: {100 * first.matched.accuracy:.0f} % right after one hop "
        f"and {100 * last.matched.accuracy:.0f} % after {last.hop}; without a message "
        f"{100 * report.alone.accuracy:.0f} %."
    )


def sections(report: TelephoneReport, folder: Path) -> Iterator[Section]:
    parts = (_ABOUT, chart(report), Points(report.findings()), _table(report))
    yield Section("telephone", "Telephone", parts)


_ABOUT = (
    "Each hop sends a fact over a channel to a receiver that restates it for the next. Content: "
    "right answers after the right message minus those after another item's with as many hops (a "
    "mismatched message)."
)


def chart(report: TelephoneReport) -> Lines:
    """Accuracy and drift by hop, a line for each channel; dotted: after another item's message."""
    hop, named = Scale("hop", whole=True), list(enumerate(report.channels.items()))
    right = [
        line
        for n, (name, hops) in named
        for line in (
            Line.through(name, n, tuple(_right(name, one) for one in hops)),
            _wrong(n, hops),
        )
    ]
    drift = [
        Line.through(name, n, tuple(_drift(name, one) for one in hops)) for n, (name, hops) in named
    ]
    alone = Guide(100 * report.alone.accuracy, "no message")
    return Lines(
        panels=(
            Panel(hop, "right answers, %", tuple(right), across=(alone,)),
            Panel(hop, "drift since hop 1, bits", tuple(drift)),
        ),
        caption="Left: right answers with 95 % Wilson intervals; dotted: after another item's "
        "message. Right: how much likelier the right answer is than at hop 1, with 95 % intervals "
        "by the bootstrap.",
        text="Right answers and drift of each channel, hop by hop; the numbers follow below.",
    )


def _right(name: str, one: Hop) -> Dot:
    arm = one.matched
    value, low, high = 100 * arm.accuracy, 100 * arm.ci_low, 100 * arm.ci_high
    text = f"{name}, hop {one.hop}: {value:.0f} % right ({low:.0f}-{high:.0f})"
    return Dot(one.hop, value, low, high, text)


def _wrong(number: int, hops: tuple[Hop, ...]) -> Line:
    path = tuple((float(one.hop), 100 * one.deranged.accuracy) for one in hops)
    return Line("", number, path=path, dotted=True)


def _drift(name: str, one: Hop) -> Dot:
    text = f"{name}, hop {one.hop}: {one.drift:+.1f} bits"
    return Dot(one.hop, one.drift.value, one.drift.low, one.drift.high, text)


def _table(report: TelephoneReport) -> Table:
    hops = [hop for chain in report.channels.values() for hop in chain]
    return Table(
        caption="Every hop of every channel",
        head=("channel", "hop", "% right (95 %)", "deranged", "content (95 %)", *_DRIFT),
        rows=tuple(
            (
                Cell.word(cells[0]),
                Cell(cells[1], hop.hop),
                Cell(cells[2], hop.matched.accuracy),
                Cell(cells[3], hop.deranged.accuracy),
                Cell(cells[4], hop.content.value),
                Cell(cells[5], hop.bits.value),
                Cell(cells[6], hop.drift.value),
                Cell(cells[7], hop.kept),
                Cell(cells[8], hop.words),
            )
            for hop, cells in zip(hops, report.rows(), strict=True)
        ),
    )


_DRIFT = ("bits", "drift (95 %)", "% kept (95 %)", "% words")
