"""Rate and distortion: what is lost when messages are made shorter, channel by channel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from math import exp, sqrt
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.errors import MissingExtra
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information, informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.items import chosen
from unspoken.evaluation.result import Result, about, markdown_table
from unspoken.evaluation.statistics import Estimate, Interval
from unspoken.evaluation.store import Store
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.tasks import Task

__all__ = ["Fit", "Point", "RateReport", "fit", "rates"]


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


@dataclass(frozen=True)
class Fit:
    """D(R) = scale exp(-decay R) + floor, R in usable bits; error: root mean square of the fit."""

    scale: float
    decay: float
    floor: float
    error: float

    def at(self, bits: float) -> float:
        return self.scale * exp(-self.decay * bits) + self.floor


def fit(bits: Sequence[float], distortion: Sequence[float]) -> Fit | None:
    """The form of arXiv 2512.21720 by least squares; None with fewer than four different rates.

    Scale and floor stay within 0 and 1, and the decay is not negative. The paper's R is bits for
    each token of one compressor after another; here it is bits for each message, as length varies.
    Raises `MissingExtra` without scipy.

    >>> fit([0, 1, 2, 3], [1.0, 0.55, 0.325, 0.2125]).floor
    0.1...
    """
    if len(set(bits)) < 4:
        return None
    try:
        optimize: Any = import_module("scipy.optimize")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "a fit needs scipy, which is not installed; "
            "install it with: pip install 'unspoken[compare]'"
        ) from error

    def off(form: Sequence[float]) -> list[float]:
        found = Fit(*map(float, form), error=0.0)
        return [found.at(rate) - lost for rate, lost in zip(bits, distortion, strict=True)]

    start = (
        max(max(distortion) - min(distortion), 0.01),
        1.0,
        min(max(min(distortion), 0.01), 0.99),
    )
    best: Any = optimize.least_squares(off, start, bounds=((0, 0, 0), (1, float("inf"), 1)))
    error = sqrt(sum(part * part for part in off(best.x)) / len(bits))
    return Fit(*map(float, best.x), error=error)


@dataclass(frozen=True)
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
                lines.append(f"{name}: too few different rates for a fit; four are needed")
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
            + "\n![distortion by bytes, positions and usable bits](rate.png)\n\n"
            f"bits: usable bits of a message, at most {self.ceiling:.2f}, with a percentile "
            "bootstrap over items; wrong: Wilson. bytes: on the wire, header included.\n"
        )

    def save(self, out: Path) -> None:
        """Write rate.json, rate.md, rate.png and the folder's report.html, each whole or not."""
        from unspoken.page import refresh
        from unspoken.page.picture import draw_rates

        write_text(out / "rate.json", json.dumps(self.to_dict(), indent=1) + "\n")
        draw_rates(self, out / "rate.png")
        write_text(out / "rate.md", self.markdown())
        refresh(out)


_COLUMNS = ("curve", "setting", "positions", "bytes", "bits (95 %)", "wrong % (95 %)")


def rates(
    curves: Mapping[str, Mapping[str, Pipeline]],
    task: Task,
    *,
    items: int = 32,
    expected: Expected = expected_answer,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> RateReport:
    """Measure usable bits and accuracy at each setting of each curve, on the same items.

    curves: name of a curve -> setting -> pipeline. items, expected, limit, seed, out: as in
    `measure_worth`; with `out`, predictions are kept too. Raises `DataError`.
    """
    drawn = chosen(task, items, limit, seed)
    named = {(curve, at): line for curve, lines in curves.items() for at, line in lines.items()}
    lines = {f"{curve}, {at}": line for (curve, at), line in named.items()}
    evaluator = Evaluator(drawn, batch_size, Store(out))
    found = informed(lines, evaluator, expected=expected, seed=seed)
    points = tuple(
        Point.of(curve, at, found[name], evaluator.arm(name, "matched", lines[name]))
        for (curve, at), name in zip(named, lines, strict=True)
    )
    fits = {
        curve: fit(
            [point.bits.value for point in points if point.curve == curve],
            [point.distortion for point in points if point.curve == curve],
        )
        for curve in curves
    }
    report = RateReport(
        points=points,
        fits={curve: form for curve, form in fits.items() if form is not None},
        alone=evaluator.arm("no message", "none", next(iter(lines.values())).alone()),
        ceiling=next(iter(found.values())).ceiling,
        **about(lines.values(), task, len(drawn), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report
