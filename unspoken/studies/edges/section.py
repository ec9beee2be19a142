"""What a page shows of a graph and its edges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Arrow, Cell, Colour, Graph, Points, Section, Table, arm_table
from unspoken.studies.edges.attribution import (
    CONTENT,
    HARM,
    NOTHING,
    PRESENCE,
    REDUNDANT,
    EdgeWorth,
)
from unspoken.studies.edges.report import ALL, GraphReport

__all__ = ["chart", "sections", "summary"]


def summary(report: GraphReport) -> str:
    """The edge that adds the most, and the graph with the most right answers, beside all edges."""
    edge = max(report.edges, key=lambda one: one.gain_bits.value)
    best = max((report.arm(name) for name in report.graphs), key=lambda arm: arm.accuracy)
    told = f"“{edge.name}” adds the most, {edge.gain_bits:+.2f} bits"
    alone = f"; over all edges {100 * report.arm(ALL).accuracy:.0f} % are right"
    if best.channel == ALL:
        return f"{told}{alone}, the most of {len(report.graphs)} graphs."
    return f"{told}{alone}, and over “{best.channel}” {100 * best.accuracy:.0f} %."


def sections(report: GraphReport, folder: Path) -> Iterator[Section]:
    tables = (_table(report), arm_table(report.arms, "graph"))
    parts = (_ABOUT, chart(report), Points(report.findings()), *tables)
    yield Section("edges", "Which edges matter", parts)


_ABOUT = (
    "Gain: how much likelier the right answer is with an edge than without it. Content: how much "
    "likelier it is than when this edge alone carries another item's message."
)

_COLOURS: dict[str, Colour] = {
    CONTENT: "green",
    REDUNDANT: "teal",
    PRESENCE: "ochre",
    HARM: "red",
    NOTHING: "grey",
}


def chart(report: GraphReport) -> Graph:
    """The agents and their edges: width by bits gained or lost, colour by verdict."""
    most = max(abs(edge.gain_bits.value) for edge in report.edges) or 1.0
    return Graph(
        nodes=report.order,
        arrows=tuple(_arrow(edge, most) for edge in report.edges),
        caption="Wider edges add more bits; colours say what they carry. Below each channel: the "
        "bits that the edge adds, and its bytes on the wire.",
        text="The graph of agents: wider edges bring more bits, colours say what they carry; the "
        "numbers follow below.",
    )


def _arrow(edge: EdgeWorth, most: float) -> Arrow:
    return Arrow(
        edge.sender,
        edge.receiver,
        abs(edge.gain_bits.value) / most,
        _COLOURS[edge.verdict],
        edge.verdict,
        (edge.channel, f"{edge.gain_bits.value:+.2f} bits, {edge.wire:,.0f} B"),
    )


def _table(report: GraphReport) -> Table:
    return Table(
        caption="Every edge, while all others stay; means over items",
        head=("edge", "channel", "bytes", "positions", *_BITS, "verdict"),
        rows=tuple(
            (
                Cell.word(one.name),
                Cell.word(one.channel),
                Cell.of(one.wire, ",.0f"),
                Cell.of(one.positions, ".1f"),
                Cell(cells[6], one.gain_bits.value),
                Cell(cells[7], one.content_bits.value),
                Cell.of(one.per_kib, ".3g"),
                Cell.of(one.per_position, ".3g"),
                Cell.word(one.verdict),
            )
            for one, cells in zip(report.edges, report.rows(), strict=True)
        ),
    )


_BITS = ("gain, bits (95 %)", "content, bits (95 %)", "gain / KiB", "gain / position")
