"""What a page shows of which channel pays: accuracy against each cost, and the front drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unspoken.page import Cell, Dot, Line, Lines, Panel, Points, Scale, Section, Table
from unspoken.studies.fronts.clock import CLOCKS, ClockName
from unspoken.studies.fronts.report import COLUMNS, Channelled, FrontsReport, front

__all__ = ["chart", "sections", "summary"]

Cost = Callable[[Channelled], float]


def summary(report: FrontsReport) -> str:
    """The sentence at the top of a page."""
    return report.sentence("sender has read")


def sections(report: FrontsReport, folder: Path) -> Iterator[Section]:
    parts = (_ABOUT, chart(report), Points(report.findings()), _table(report), report.about)
    yield Section("fronts", "Which channel pays?", parts)


_ABOUT = (
    "Accuracy against time on two clocks, bytes and tokens. A dotted line is the front: the arms "
    "that no arm of their class beats. A blind arm's sender does not know the question, an asked "
    "arm's does. Compare arms within a class. The second clock starts when the sender has read the "
    "text."
)


def chart(report: FrontsReport) -> Lines:
    """Accuracy against the seconds of each clock, bytes and tokens, and the fronts."""
    clocks = [
        (Scale(f"seconds to the answer, {clock}", log=True), _seconds(clock)) for clock in CLOCKS
    ]
    sizes = [
        (Scale("bytes on the wire", log=True), _bytes),
        (Scale("tokens, both sides", log=True), _tokens),
    ]
    return Lines(
        panels=tuple(_panel(report, x, cost) for x, cost in (*clocks, *sizes)),
        caption="Right answers in percent, 95 % Wilson intervals; costs on logarithmic axes.",
        text=f"Right answers in percent of {', '.join(_families(report.arms))} against their "
        "costs; the numbers follow below.",
    )


def _seconds(clock: ClockName) -> Cost:
    return lambda arm: arm.clock.answer(clock)


def _bytes(arm: Channelled) -> float:
    return arm.matched.wire_bytes


def _tokens(arm: Channelled) -> float:
    return arm.tokens


def _panel(report: FrontsReport, x: Scale, cost: Cost) -> Panel:
    families, most = _families(report.arms), max(map(cost, report.arms))
    dots = [
        Line(name, number, tuple(_dot(arm, cost) for arm in arms))
        for number, (name, arms) in enumerate(families.items())
    ]
    fronts = [
        Line(f"front, {name}", number, path=_steps(front(arms, cost), cost, most), dotted=True)
        for number, (name, asked) in enumerate(_CLASSES, start=len(families))
        if (arms := report.of_class(asked=asked))
    ]
    return Panel(x, "right answers, %", (*dots, *fronts))


_CLASSES = (("blind", False), ("asked", True))


def _families(arms: Sequence[Channelled]) -> dict[str, list[Channelled]]:
    """Arms that differ by length or reader alone, by what they have in common."""
    found: dict[str, list[Channelled]] = {}
    for arm in arms:
        name = arm.name.partition(",")[0].partition(" of ")[0]
        found.setdefault(name, []).append(arm)
    return found


def _dot(arm: Channelled, cost: Cost) -> Dot:
    found = arm.matched
    right, low, high = (100 * one for one in (found.accuracy, found.ci_low, found.ci_high))
    times = ", ".join(f"{arm.clock.answer(clock):.2f} s ({clock})" for clock in CLOCKS)
    text = (
        f"{arm.name}: {right:.0f} % right ({low:.0f}-{high:.0f}), {times}, "
        f"{found.wire_bytes:,.0f} bytes, {arm.tokens:,.0f} tokens"
    )
    return Dot(cost(arm), right, low, high, text)


def _steps(arms: Sequence[Channelled], cost: Cost, most: float) -> tuple[tuple[float, float], ...]:
    """From arm to arm of a front, level until the next one costs as much, and to the end."""
    path: list[tuple[float, float]] = []
    for arm, end in zip(arms, [*map(cost, arms[1:]), most], strict=True):
        path += [(cost(arm), 100 * arm.accuracy), (end, 100 * arm.accuracy)]
    return tuple(path)


def _table(report: FrontsReport) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for arm, cells in zip(report.arms, report.rows(), strict=True):
        values = (
            *cells[:2],
            arm.accuracy,
            arm.none.accuracy,
            arm.deranged.accuracy,
            -1.0 if arm.constant is None else arm.constant.accuracy,
            arm.against.value,
            *(arm.clock.answer(clock) for clock in CLOCKS),
            arm.sender_read + arm.sender_written,
            arm.receiver_read + arm.receiver_written,
            arm.matched.wire_bytes,
        )
        rows.append(tuple(Cell(text, value) for text, value in zip(cells, values, strict=True)))
    return Table("Every arm, and what it costs", COLUMNS, tuple(rows))
