"""Charts and tables of what many studies measure: arms, and usable bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from unspoken.evaluation.arm import Arm, notes
from unspoken.evaluation.bits import Information
from unspoken.evaluation.statistics import Estimate
from unspoken.page.charts import Colour, Forest, Mark, Row
from unspoken.page.sections import Cell, Section, Table

__all__ = ["arm_table", "bits_section", "percent"]


def percent(value: float, low: float, high: float) -> str:
    """A share and its interval.

    >>> percent(0.5, 0.4, 0.6)
    '50.0 (40-60)'
    """
    return f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def arm_table(arms: Sequence[Arm], what: str = "channel") -> Table:
    """Every arm: accuracy, what an item costs over all agents, and which seconds are older."""
    note = notes(arms).removesuffix(".")
    head = (what, "condition", "% right (95 %)", "tokens read", "written", "passes")
    return Table(
        caption=f"Every arm. Costs are means for each item, over all agents{note and f'. {note}'}",
        head=(*head, "bytes sent", "seconds"),
        rows=tuple(
            (
                Cell.word(arm.channel),
                Cell.word(arm.condition),
                Cell(percent(arm.accuracy, arm.ci_low, arm.ci_high), arm.accuracy),
                Cell.of(arm.tokens_read, ",.0f"),
                Cell.of(arm.tokens_written, ",.1f"),
                Cell.of(arm.passes, ",.1f"),
                Cell.of(arm.wire_bytes, ",.0f"),
                Cell.of(arm.seconds, ".2f"),
            )
            for arm in arms
        ),
    )


def bits_section(channels: Sequence[Information], findings: Iterable[str] = ()) -> Section:
    """Usable bits as a chart and a table. findings: what the table does not say."""
    n, ceiling = channels[0].n, channels[0].ceiling
    about = (
        "How much likelier an item's message makes its right answer, compared with the messages "
        f"about all {n} items. The most is log2 {n} = {ceiling:.2f} bits, the line right "
        "of zero. A message that misleads has less than 0 bits. Deranged is the value for another "
        "item's message (a mismatched message)."
    )
    more = tuple(f"{line[:1].upper()}{line[1:]}." for line in findings)
    return Section("bits", "Usable bits", (about, _bits(channels), _bits_table(channels), *more))


def _bits(channels: Sequence[Information]) -> Forest:
    """Bits of the right message, of another item's, and against no message, with the ceiling."""
    kinds: tuple[tuple[str, Colour, Callable[[Information], Estimate]], ...] = (
        ("right message", "blue", lambda one: one.bits),
        ("another item's", "orange", lambda one: one.deranged),
        ("against none (PVI)", "green", lambda one: one.pvi),
    )
    return Forest(
        rows=tuple(
            Row(one.channel, tuple(_estimate(name, colour, of(one)) for name, colour, of in kinds))
            for one in channels
        ),
        unit="bits",
        caption="Bits for each item, with 95 % intervals by the bootstrap",
        guides=(0.0, channels[0].ceiling),
    )


def _estimate(name: str, colour: Colour, one: Estimate) -> Mark:
    return Mark(name, colour, one.value, one.low, one.high, f"{one:.2f}")


def _bits_table(channels: Iterable[Information]) -> Table:
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
