"""A pipeline read densely and from pools of caches: what reuse saves, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Difference
from unspoken.files import write_text

__all__ = ["ReuseArm", "ReuseReport"]


@dataclass(frozen=True)
class ReuseArm:
    """One way to read over n items.

    accuracy, ci_low, ci_high: fractions, Wilson interval of 95 %. against_dense: paired with the
    dense arm. agreement: for each agent the share of its turns in which it wrote, word for word,
    what it wrote in the dense arm. wait: for each agent the median seconds to its first token;
    request: the median of their sum over an item. reused: the share of tokens that were not read.
    pool: what the pool held at the end and what its probes showed.
    """

    way: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    against_dense: Difference | None
    agreement: Mapping[str, float]
    wait: Mapping[str, float]
    request: float
    reused: float
    pool: Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class ReuseReport(Result):
    """A comparison of ways to read: arms, and everything needed to know what was compared."""

    arms: tuple[ReuseArm, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for number, name in enumerate(_COLUMNS):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for arm in self.arms:
            table.add_row(*self._cells(arm))
        return table

    def findings(self) -> list[str]:
        """For each pool: agreement by agent, and what the probes showed."""
        found: list[str] = []
        for arm in self.arms[1:]:
            by_agent = ", ".join(f"{name} {share:.0%}" for name, share in arm.agreement.items())
            line = f"{arm.way}: same words as dense: {by_agent}"
            if probes := arm.pool["probes"]:
                line += (
                    f"; {probes['probes']:.0f} probes: KL {probes['kl']:.3g} nats, likeliest token "
                    f"the same in {probes['agreement']:.0%}"
                )
                if "candidates" in probes:
                    line += f", candidate the same in {probes['candidates']:.0%}"
            if fallen := arm.pool["fallen"]:
                line += f"; {fallen} consumers went back to dense reads"
            found.append(line)
        return found

    def markdown(self) -> str:
        rows = map(self._cells, self.arms)
        return (
            f"# {self.task['name']}, {self.task['protocol']}: dense reads and pools of caches\n\n"
            f"{self.stated}\n\n{markdown_table(_COLUMNS, rows)}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + "\nThe wait is the time to an agent's first token, summed over an item's agents: "
            "the median. reused is the share of all tokens that were not read.\n"
        )

    def save(self, out: str | Path) -> None:
        """Write results.json and report.md, each whole or not at all."""
        write_result(Path(out, "results.json"), self.to_dict())
        write_text(Path(out, "report.md"), self.markdown())

    def _cells(self, arm: ReuseArm) -> list[str]:
        against, held = arm.against_dense, sum(arm.pool.get("bytes", {}).values())
        return [
            arm.way,
            f"{100 * arm.accuracy:.1f} ({100 * arm.ci_low:.0f}-{100 * arm.ci_high:.0f})",
            f"{100 * against.value:+.1f} (p={against.p:.2g})" if against else "",
            f"{arm.request:.2f}",
            f"{self.arms[0].request / arm.request:.1f}",
            f"{arm.reused:.0%}",
            f"{held / 1e6:,.0f}",
        ]


_COLUMNS = ("way", "% right (95 %)", "to dense", "wait, s", "faster", "reused", "MB")
