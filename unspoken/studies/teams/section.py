"""What a page shows of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unspoken.page import Cell, Dot, Guide, Line, Lines, Panel, Points, Scale, Section, Table
from unspoken.studies.teams.report import PlanReport

__all__ = ["chart", "sections", "summary"]


def summary(report: PlanReport) -> str:
    """Whether a team pays, and how often votes confirm what is predicted."""
    right = sum(one.agrees for one in report.votes)
    verdict = report.verdict[:1].upper() + report.verdict[1:]
    return f"{verdict}. Votes of three confirm the sign in {right} of {len(report.votes)} settings."


def sections(report: PlanReport, folder: Path) -> Iterator[Section]:
    parts = (_ABOUT, chart(report), Points(report.findings()), _votes(report))
    yield Section("plan", "When a team pays", parts)


_ABOUT = (
    "A bias is 2 p - 1, p the share of right decisions between two answers. Three agents read "
    "little each and vote over a channel. One agent reads as many tokens as they spend. Synergy is "
    "the vote's bias minus that one agent's, on the same items."
)


def chart(report: PlanReport) -> Lines:
    """Bias of one agent by what it reads, and of every team within the budget by its leaves."""
    bias, budget = "bias, 2 p - 1", f"{report.limits.budget:g}"
    leaves = Scale(f"leaves of a team, {budget} tokens in all", log=True)
    alone = Guide(report.alone, "one agent, same budget")
    return Lines(
        panels=(
            Panel(Scale("tokens that one agent reads", log=True), bias, (_measured(report),)),
            Panel(leaves, bias, tuple(_teams(report)), across=(alone,)),
        ),
        caption="Left: one agent as measured, with 95 % intervals by the bootstrap, and its power "
        "law. Right: teams as predicted, the best of each size.",
        text="Predicted bias of one agent and of the best teams against the budget in tokens; the "
        "numbers follow below.",
    )


def _measured(report: PlanReport) -> Line:
    """What one agent reached, and the law that was fitted to it."""
    dots = tuple(
        Dot(
            one.read,
            one.bias.value,
            one.bias.low,
            one.bias.high,
            f"one agent, {one.read:.1f} tokens: bias {one.bias:.2f}",
        )
        for one in report.solos
    )
    least, most = dots[0].x, dots[-1].x
    steps = [least * (most / least) ** (n / 50) for n in range(51)]
    name = f"one agent, {report.law.scale:.2f} x^{report.law.beta:.2f}"
    return Line(name, 0, dots, tuple((x, report.law.at(x)) for x in steps))


def _teams(report: PlanReport) -> Iterator[Line]:
    """A line for each channel and depth, over the leaves of its best teams."""
    best: dict[tuple[str, int], dict[int, float]] = {}
    for one in report.options:  # best first
        found = best.setdefault((one.channel, one.team.depth), {})
        found.setdefault(one.team.leaves, one.bias)
    for number, ((channel, depth), biases) in enumerate(sorted(best.items()), start=1):
        name = f"{channel}, depth {depth}"
        dots = (
            Dot(n, bias, bias, bias, f"{name}, {n} leaves: bias {bias:.2f}")
            for n, bias in sorted(biases.items())
        )
        yield Line.through(name, number, tuple(dots))


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
