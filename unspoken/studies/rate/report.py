"""Rate and distortion: what is lost when messages are made shorter, channel by channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Estimate, Interval
from unspoken.files import write_text
from unspoken.studies.rate.fit import Fit

__all__ = ["Point", "RateReport"]


@dataclass(frozen=True)
class Point:
    """One setting of a channel: the rate of its messages, and what was answered wrong.

    positions, wire: of a message, mean, in positions (words in the receiver's tokens) and bytes.
    bits: usable bits. distortion: 1 - accuracy, Wilson interval of 95 %.
    """

    curve: str
    setting: str
    positions: float
    wire: float
    bits: Estimate
    distortion: float
    distortion_ci: Interval

    @classmethod
    def of(cls, curve: str, setting: str, found: Information, arm: Arm) -> Point:
        ends = Interval(1 - arm.ci_high, 1 - arm.ci_low)
        return cls(curve, setting, found.positions, found.wire, found.bits, 1 - arm.accuracy, ends)


@dataclass(frozen=True, repr=False)
class RateReport(Result):
    """Curves of rate and distortion between one pair of models.

    alone: the distortion without a message. fits: by curve, for those with enough points.
    """

    points: tuple[Point, ...]
    fits: Mapping[str, Fit]
    alone: Arm
    ceiling: float

    @property
    def curves(self) -> dict[str, list[Point]]:
        """The points of each curve."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.curve, []).append(point)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The content of rate.json."""
        return asdict(self)

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table, point by point."""
        for point in self.points:
            low, high = 100 * point.distortion_ci.low, 100 * point.distortion_ci.high
            yield [
                point.curve,
                point.setting,
                f"{point.positions:.1f}",
                f"{point.wire:,.0f}",
                f"{point.bits:.2f}",
                f"{100 * point.distortion:.0f} ({low:.0f}-{high:.0f})",
            ]

    def table(self) -> Table:
        """The table for a terminal of 80 columns or more."""
        title = f"{self.task['name']}, {self.task['protocol']}, N = {self.task['items']}"
        table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for number, name in enumerate(_COLUMNS):
            justify = "right" if number > 1 else "left"
            table.add_column(name, justify=justify, no_wrap=number > 0)
        for row in self.rows():
            table.add_row(*row)
        return table

    def findings(self) -> list[str]:
        """The fit of each curve, or why there is none."""
        lines = [f"without a message {100 * (1 - self.alone.accuracy):.0f} % are wrong"]
        for name in self.curves:
            form = self.fits.get(name)
            if form is None:
                lines.append(f"{name}: too few different rates for a fit, which needs four")
                continue
            lines.append(
                f"{name}: D(R) = {form.scale:.2f} exp(-{form.decay:.2f} R) + {form.floor:.2f}, R "
                f"in usable bits, off by {form.error:.3f} (root mean square)"
            )
        return lines

    def markdown(self) -> str:
        return (
            f"# Rate and distortion: {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.stated}\n\n{markdown_table(_COLUMNS, self.rows())}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + "\n![distortion by bytes, positions and usable bits](rate.svg)\n\n"
            f"bits: usable bits of a message, at most {self.ceiling:.2f}, with a percentile "
            "bootstrap over items; wrong: Wilson. bytes: on the wire, header included.\n"
        )

    def save(self, out: str | Path) -> None:
        """Write rate.json and rate.md, each whole or not at all."""
        write_result(Path(out, "rate.json"), self.to_dict())
        write_text(Path(out, "rate.md"), self.markdown())


_COLUMNS = ("curve", "setting", "positions", "bytes", "bits (95 %)", "wrong % (95 %)")
