"""Axes of charts: values to places in percent, so that lines stretch and text does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Any

from unspoken.errors import MissingExtra
from unspoken.page.charts import Bars, Forest, Lines, Panel

__all__ = ["Axis", "Tick", "panels", "row_axis"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in percent, what is written there, and its value."""

    at: float
    text: str
    value: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to places, 0 to 100 percent of a plot; `low` and `high` are the values at its ends.

    >>> axis = Axis.over([0.0, 83.0])
    >>> [tick.text for tick in axis.ticks], axis.at(50)
    (['0', '20', '40', '60', '80', '100'], 50.0)
    """

    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...]

    @classmethod
    def over(
        cls,
        values: Iterable[float],
        *,
        log: bool = False,
        whole: bool = False,
        signed: bool = False,
    ) -> Axis:
        """An axis with round ends over all values. A logarithmic one has none up to 0.

        whole: ticks only at whole numbers; signed: +5, not 5. Raises `MissingExtra`.
        """
        known = [value for value in values if value > 0 or not log]
        places = _log_places(known or [1.0]) if log else _places(known or [0.0], whole)
        bare = cls(places[0], places[-1], log, ())
        shown = _few(places) if log else places
        ticks = (Tick(bare.at(place), _label(place, signed), place) for place in shown)
        return replace(bare, ticks=tuple(ticks))

    def has(self, value: float) -> bool:
        """Whether a value has a place: 0 has none on a logarithmic axis."""
        return value > 0 or not self.log

    def at(self, value: float) -> float:
        """The place of a value."""
        ends = (self.low, self.high, value)
        low, high, here = (log10(end) if self.log else end for end in ends)
        return round(100 * (here - low) / (high - low), 2)

    def down(self, value: float) -> float:
        """The place of a value counted from the top."""
        return round(100 - self.at(value), 2)


def _label(value: float, signed: bool) -> str:
    text = f"{value:,.10g}"
    return f"+{text}" if signed and value > 0 else text


def _places(values: list[float], whole: bool) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    options = {"nbins": 6, "steps": (1, 2, 5, 10), "min_n_ticks": 2, "integer": whole}
    found = _locator(**options).tick_values(low, high)
    return [round(float(place), 10) for place in found]


def _log_places(values: list[float]) -> list[float]:
    """1, 2, 5, 10 and so on."""
    low, high = min(values), max(values)
    powers = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
    places = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    first = max(n for n, place in enumerate(places) if place <= low)
    last = min(n for n, place in enumerate(places) if place >= high)
    return places[first : max(last, first + 1) + 1]


def _few(places: list[float]) -> list[float]:
    """If there are many, only powers of ten."""
    tens = [place for place in places if log10(place).is_integer()]
    return places if len(places) < 6 or len(tens) < 2 else tens


def _locator(**options: Any) -> Any:
    try:
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingExtra(
            "a report needs matplotlib; install it with: pip install 'unspoken[compare]'"
        ) from error
    return MaxNLocator(**options)


def row_axis(chart: Forest | Bars) -> Axis:
    """The axis of all rows."""
    marks = [mark for row in chart.rows for mark in row.marks]
    ends = [0.0, *(end for mark in marks for end in (mark.value, mark.low, mark.high))]
    if isinstance(chart, Bars):
        return Axis.over(ends)
    return Axis.over([*ends, *chart.guides], signed=chart.signed)


def panels(chart: Lines) -> Iterator[tuple[Panel, Axis, Axis]]:
    """Each panel with its two axes."""
    for panel in chart.panels:
        same = [other for other in chart.panels if other.y == panel.y]
        heights = [value for other in same for value in _heights(other)]
        yield (
            panel,
            Axis.over(_lengths(panel), log=panel.x.log, whole=panel.x.whole),
            Axis.over(heights),
        )


def _heights(panel: Panel) -> list[float]:
    found = [0.0, *(guide.value for guide in panel.across)]
    for line in panel.lines:
        found += [end for dot in line.dots for end in (dot.y, dot.low, dot.high)]
        found += [y for _, y in line.path]
    return found


def _lengths(panel: Panel) -> list[float]:
    found = [guide.value for guide in panel.upright]
    for line in panel.lines:
        found += [dot.x for dot in line.dots]
        found += [x for x, _ in line.path]
    return found
