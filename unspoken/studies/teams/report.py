"""A plan as a table, JSON, Markdown and a picture, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Difference, Estimate
from unspoken.files import write_text
from unspoken.studies.teams.calibrate import Law
from unspoken.studies.teams.options import Limits, Option

__all__ = ["Measured", "PlanReport", "Vote"]


@dataclass(frozen=True)
class Measured:
    """One agent alone with a budget: tokens read, its bias, and how its errors are shared (rho)."""

    budget: int
    read: float
    bias: Estimate
    rho: Estimate


@dataclass(frozen=True)
class Vote:
    """Three senders and one way to send: what is predicted and what was measured, in bias.

    gamma: how often a receiver decides as its sender did, 2 p - 1; unsaid: the same without the
    message, None where decisions are counted without a receiver. said, heard: the bias of a
    sender, and of the receiver that sees the message alone. alpha, exponent: alpha_rho and s of the
    team of three, no s where gamma is not positive. spent: tokens of all three and their messages;
    alone_read: what the one agent reads instead, at most the whole fact. predicted, measured: of
    the vote; alone_predicted, alone_measured: of that one agent. difference: vote - alone, in
    shares of right decisions.
    """

    channel: str
    setting: str
    positions: float
    cost: float
    gamma: Estimate
    unsaid: float | None
    said: float
    heard: float
    alpha: float
    exponent: float | None
    spent: float
    alone_read: float
    predicted: float
    alone_predicted: float
    measured: float
    alone_measured: float
    difference: Difference

    @property
    def name(self) -> str:
        return f"{self.channel}, {self.setting}"

    @property
    def agrees(self) -> bool:
        """Whether synergy, vote - alone, has the sign that was predicted."""
        return _sign(self.predicted - self.alone_predicted) == _sign(self.difference.value)

    @property
    def open(self) -> bool:
        """Whether the measured interval covers zero."""
        return self.difference.low <= 0 <= self.difference.high

    @property
    def verdict(self) -> str:
        """Whether prediction and measurement agree; `open` if too few items decide it."""
        agrees = "agrees" if self.agrees else "differs"
        return f"{agrees}, open" if self.open else agrees

    def reason(self, items: int) -> str:
        """Why the measured sign may differ from the predicted one."""
        if self.open:
            return f"{items} items leave the measured sign open"
        return (
            f"the receiver decides with a bias of {self.heard:+.2f} from one message, where a flip "
            f"channel of this gamma gives {self.gamma.value * self.said:+.2f}, and a power law "
            f"gives one agent {self.alone_predicted:+.2f} instead of {self.alone_measured:+.2f}"
        )


@dataclass(frozen=True, repr=False)
class PlanReport(Result):
    """The calibration, every team that the budget allows, best first, and the votes that check it.

    gain: predicted bias of the best team minus that of one agent with the whole budget; played: the
    best team's bias in simulated trees, and its standard error. None without a team.
    """

    solos: tuple[Measured, ...]
    law: Law
    beta: Estimate
    votes: tuple[Vote, ...]
    options: tuple[Option, ...]
    gain: Estimate | None
    played: tuple[float, float] | None
    limits: Limits
    leaf: int

    @property
    def alone(self) -> float:
        """The bias that is predicted of one agent with the whole budget."""
        return self.law.at(min(self.limits.budget, self.limits.most))

    @property
    def verdict(self) -> str:
        """Which is predicted better with the same budget, a team or one agent."""
        budget = f"{self.limits.budget:g} tokens"
        if not self.options or self.gain is None:
            return (
                f"use a single agent: {budget} are too few for three agents that read "
                f"{self.limits.least:.1f} tokens each and send a message"
            )
        found = self.gain
        spread = f"bias {found:+.3f}"
        doubt = "; the interval covers 0" if found.low <= 0 <= found.high else ""
        if found.value > 0:
            better = f"this team is predicted better than a single agent with {budget}"
            return f"{better}: {spread}{doubt}"
        return f"a single agent with this budget is predicted better: the team's {spread}{doubt}"

    def to_dict(self) -> dict[str, Any]:
        """The content of plan.json."""
        votes = [{**asdict(one), "verdict": one.verdict} for one in self.votes]
        teams = [
            {
                **asdict(one),
                "alpha": one.team.alpha,
                "exponent": one.team.exponent if one.team.gamma else None,
                "leaves": one.team.leaves,
                "regime": one.team.regime,
                "fixed_point": one.team.fixed_point,
            }
            for one in self.options
        ]
        more = {"alone": self.alone, "verdict": self.verdict}
        return {**asdict(self), "votes": votes, "options": teams, **more}

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table of votes."""
        for one in self.votes:
            gamma, measured = one.gamma, one.difference
            yield [
                one.channel,
                one.setting,
                f"{one.cost:.1f}",
                f"{gamma:.2f}",
                "-" if one.unsaid is None else f"{one.unsaid:.2f}",
                f"{one.alpha:.2f}",
                "-" if one.exponent is None else f"{one.exponent:+.2f}",
                f"{one.predicted:.2f}/{one.alone_predicted:.2f}",
                f"{one.measured:.2f}/{one.alone_measured:.2f}",
                f"{2 * measured.value:+.2f} [{2 * measured.low:+.2f}, {2 * measured.high:+.2f}]",
                one.verdict,
            ]

    def table(self) -> Table:
        """The table for a terminal of 80 columns: the votes of three, and one agent instead."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("channel", min_width=10)
        table.add_column("length", min_width=9)
        for name in ("gamma", *_COLUMNS[7:-1]):
            table.add_column(name.replace(" (", "\n("), justify="right", no_wrap=True)
        table.add_column("sign", justify="right", min_width=7)
        for row, one in zip(self.rows(), self.votes, strict=True):
            table.add_row(*row[:2], f"{one.gamma.value:.2f}", *row[7:])
        return table

    def findings(self) -> list[str]:
        """The law of one agent, the best team, the verdict, and whether votes confirm it."""
        lines = [
            f"one agent that reads x tokens: bias {self.law.scale:.2f} x^{self.law.beta:.2f}, beta "
            f"[{self.beta.low:.2f}, {self.beta.high:.2f}]; a fact has {self.limits.most:.1f}"
        ]
        if self.options:
            lines.append(self._best(self.options[0]))
        lines.append(self.verdict)
        right = [one for one in self.votes if one.agrees]
        lines.append(
            "votes of three: the predicted sign of synergy is the measured one for "
            f"{len(right)} of {len(self.votes)}"
        )
        lines += [
            f"{one.name}: not the predicted sign; {one.reason(self.task['items'])}"
            for one in self.votes
            if not one.agrees
        ]
        return lines

    def _best(self, one: Option) -> str:
        team = one.team
        played = f", {self.played[0]:+.3f} ({self.played[1]:.3f}) simulated" if self.played else ""
        return (
            f"the best team has {team.leaves} leaves (fan-in {team.fan_in}, depth {team.depth}) "
            f"that read {one.leaf:.1f} tokens each and send over {one.channel}, {one.setting}: "
            f"gamma {team.gamma:.2f}, rho {team.rho:.2f}, alpha_rho {team.alpha:.2f} "
            f"({team.regime}), s {team.exponent:+.2f} against beta {self.law.beta:.2f}, fixed "
            f"point {team.fixed_point:.2f}; bias {one.bias:+.3f} predicted{played}, one agent "
            f"{self.alone:+.3f}"
        )

    def markdown(self) -> str:
        solos = [
            [f"{one.budget}", f"{one.read:.1f}", f"{one.bias:.2f}", f"{one.rho:.2f}"]
            for one in self.solos
        ]
        return (
            f"# When a team pays: {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.stated} Budget {self.limits.budget:g} tokens, at most "
            f"{self.limits.window:g} positions of messages for one receiver.\n\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + f"\n## One agent\n\n{markdown_table(_ALONE, solos)}\n"
            + f"## Three agents with {self.leaf} tokens each\n\n"
            + f"{markdown_table(_COLUMNS, self.rows())}\n"
            + f"![predicted bias](plan.svg)\n\n{_NOTES}\n"
        )

    def save(self, out: str | Path) -> None:
        """Write plan.json and plan.md, each whole or not at all."""
        write_result(Path(out, "plan.json"), self.to_dict())
        write_text(Path(out, "plan.md"), self.markdown())


_ALONE = ("budget", "tokens read", "bias (95 %)", "rho (95 %)")
_COLUMNS = (
    "channel",
    "length",
    "cost",
    "gamma (95 %)",
    "unsaid",
    "alpha",
    "s",
    "predicted (vote/one)",
    "measured (vote/one)",
    "synergy (95 %)",
    "sign",
)
_NOTES = (
    "A decision is which of two answers the model finds likelier: the right one, or another "
    "item's that is as likely to an agent that has read nothing. bias: 2 p - 1, p the share of "
    "right ones. One agent reads a window of the fact, that many tokens in a row, each agent from "
    "another place. Three such agents give rho, the correlation of their signed decisions. gamma: "
    "2 p - 1, p how often a receiver that sees the message alone decides as its sender did; "
    "unsaid: the same without a message, from the question alone. cost: tokens that one message "
    "adds, its positions, twice if a sender wrote it. A vote is the majority of what receivers "
    "decide from each of three messages, or of what senders decide themselves where it is counted "
    "without a channel. It is compared with one agent that reads as many tokens as the vote "
    "spends, at most the fact. What every agent reads, instructions and question, is not counted: "
    "counting it would favour one agent even more. The recursion is that of arXiv 2601.17311, mu' "
    "= rho gamma mu + (1 - rho) f_b(gamma mu); it takes gamma and rho within 0 and 1, the same at "
    "every level. Intervals: percentile bootstrap over items; of synergy Newcombe's for paired "
    "shares."
)


def _sign(value: float) -> int:
    return (value > 1e-9) - (value < -1e-9)
