"""What a page shows of rate and distortion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unspoken.page import Cell, Dot, Guide, Line, Lines, Panel, Points, Scale, Section, Table
from unspoken.studies.rate.report import Point, RateReport

__all__ = ["chart", "sections", "summary"]


def summary(report: RateReport) -> str:
    """The setting with the fewest wrong answers, beside no message."""
    best = min(report.points, key=lambda one: one.distortion)
    return (
        f"The fewest answers are wrong over “{best.curve}, {best.setting}”, "
        f"{100 * best.distortion:.0f} % with {best.wire:,.0f} bytes, and without a message "
        f"{100 * (1 - report.alone.accuracy):.0f} %."
    )


def sections(report: RateReport, folder: Path) -> Iterator[Section]:
    parts = (_ABOUT, chart(report), Points(report.findings()), _table(report))
    yield Section("rate", "Rate and distortion", parts)


_ABOUT = (
    "Wrong answers when messages are cut short. The dashed line is the receiver without a message. "
    "On the right, curves are fits and the upright line is the ceiling of bits."
)


def chart(report: RateReport) -> Lines:
    """Distortion against bytes, positions and usable bits of a message, channel by channel."""
    named = ", ".join(report.curves)
    bits = Scale("usable bits")
    return Lines(
        panels=(
            _panel(report, Scale("bytes on the wire", log=True), lambda one: one.wire),
            _panel(report, Scale("positions", log=True), lambda one: one.positions),
            Panel(
                bits,
                _WRONG,
                tuple(_fitted(report, n, name) for n, name in enumerate(report.curves)),
                across=_alone(report),
                upright=(Guide(report.ceiling, "ceiling"),),
            ),
        ),
        caption="Wrong answers in percent, 95 % Wilson intervals; bytes and positions on "
        "logarithmic axes.",
        text=f"Wrong answers in percent as messages of {named} get longer; the numbers follow "
        "below.",
    )


_WRONG = "wrong answers, %"


def _alone(report: RateReport) -> tuple[Guide, ...]:
    return (Guide(100 * (1 - report.alone.accuracy), "no message"),)


def _panel(report: RateReport, x: Scale, of: Callable[[Point], float]) -> Panel:
    """One way to count what is sent. What is not above 0 has no place on a logarithmic axis."""
    lines = (
        Line.through(name, n, tuple(_dot(one, of(one)) for one in points if of(one) > 0))
        for n, (name, points) in enumerate(report.curves.items())
    )
    return Panel(x, _WRONG, tuple(lines), across=_alone(report))


def _fitted(report: RateReport, number: int, name: str) -> Line:
    """The points of a curve by their bits, and its fit from the least to the most of these."""
    points = report.curves[name]
    dots = tuple(_dot(one, one.bits.value) for one in points)
    form = report.fits.get(name)
    if form is None:
        return Line(name, number, dots)
    least, most = min(dot.x for dot in dots), max(dot.x for dot in dots)
    steps = [least + (most - least) * n / 24 for n in range(25)]
    return Line(name, number, dots, tuple((step, 100 * form.at(step)) for step in steps))


def _dot(one: Point, x: float) -> Dot:
    wrong, low, high = (
        100 * value for value in (one.distortion, one.distortion_ci.low, one.distortion_ci.high)
    )
    text = (
        f"{one.curve}, {one.setting}: {wrong:.0f} % wrong ({low:.0f}-{high:.0f}), "
        f"{one.wire:,.0f} bytes, {one.positions:.1f} positions, {one.bits.value:.2f} bits"
    )
    return Dot(x, wrong, low, high, text)


def _table(report: RateReport) -> Table:
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
