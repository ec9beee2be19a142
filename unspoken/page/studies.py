"""What a page shows of plans, telephone games and graphs: a table, a picture and sentences each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unspoken.page import tables
from unspoken.page.found import Found
from unspoken.page.pictures import inlined
from unspoken.page.tables import Cell, Table
from unspoken.studies.edges.report import GraphReport
from unspoken.studies.teams.report import PlanReport
from unspoken.studies.telephone.report import TelephoneReport

__all__ = ["Study", "studies"]


@dataclass(frozen=True)
class Study:
    """One measurement. key: of its section; picture: a data URL, or empty; seen: what it shows."""

    key: str
    title: str
    about: str
    findings: Sequence[str]
    tables: tuple[Table, ...]
    picture: str
    seen: str


def studies(found: Found) -> Iterator[Study]:
    """Those that a folder holds."""
    if found.plan is not None:
        yield Study(
            key="plan",
            title="When a team pays",
            about=_PLAN,
            findings=found.plan.findings(),
            tables=(_votes(found.plan),),
            picture=inlined(found.folder / "plan.png"),
            seen="Predicted bias of one agent and of the best teams against the budget in tokens",
        )
    if found.telephone is not None:
        yield Study(
            key="telephone",
            title="Telephone",
            about=_TELEPHONE,
            findings=found.telephone.findings(),
            tables=(_hops(found.telephone),),
            picture=inlined(found.folder / "telephone.png"),
            seen="Right answers and drift of each channel, hop by hop",
        )
    if found.edges is not None:
        yield Study(
            key="edges",
            title="Which edges matter",
            about=_EDGES,
            findings=found.edges.findings(),
            tables=(_edges(found.edges), tables.arms(found.edges.arms, "graph")),
            picture=inlined(found.folder / "edges.png"),
            seen="The graph of agents: wider edges bring more bits, colours say what they carry",
        )


_PLAN = (
    "A bias is 2 p - 1, p the share of right decisions between two answers. Three agents read "
    "little each and vote over a channel; one agent reads what they spend. Synergy is the vote's "
    "bias less that one agent's, on the same items."
)
_TELEPHONE = (
    "Each hop sends a fact over a channel to a receiver that restates it for the next. Content is "
    "what the right chain adds to another item's of as many hops."
)
_EDGES = (
    "Gain is how much likelier the right answer is with an edge than without it; content, than "
    "when this edge alone carries another item's message."
)


def _votes(report: PlanReport) -> Table:
    return Table(
        caption="Three agents vote, and one reads as much: predicted and measured",
        head=("channel", "length", "cost", "gamma", *_SIGNS),
        rows=tuple(
            (
                Cell.word(one.channel),
                Cell.word(one.setting),
                Cell.of(one.cost, ".1f"),
                Cell.of(one.gamma.value, ".2f"),
                Cell.of(one.predicted, "+.2f"),
                Cell.of(one.alone_predicted, "+.2f"),
                Cell.of(one.measured, "+.2f"),
                Cell.of(one.alone_measured, "+.2f"),
                Cell(cells[9], one.difference.value),
                Cell.word(one.verdict),
            )
            for one, cells in zip(report.votes, report.rows(), strict=True)
        ),
    )


_SIGNS = (
    "vote, predicted",
    "one, predicted",
    "vote, measured",
    "one, measured",
    "synergy (95 %)",
    "sign",
)


def _hops(report: TelephoneReport) -> Table:
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


def _edges(report: GraphReport) -> Table:
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
