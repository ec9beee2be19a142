"""Where things stand in a drawing: percent of its width and height, so that text keeps its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from math import ceil, floor, log10
from typing import Any

from unspoken.errors import MissingExtra

__all__ = ["Axis", "Chart", "Curve", "Dot", "Forest", "Mark", "Panel", "Row", "Tick"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in percent, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to places, 0 to 100 percent of a plot; `low` and `high` are the values at its ends.

    >>> axis = Axis.over([0.0, 0.83], show=lambda value: f"{100 * value:.0f}")
    >>> [tick.text for tick in axis.ticks], axis.at(0.5)
    (['0', '20', '40', '60', '80', '100'], 50.0)
    """

    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...]

    @classmethod
    def over(
        cls, values: Iterable[float], *, show: Callable[[float], str], log: bool = False
    ) -> Axis:
        """An axis with round ends over all values; those of a logarithmic one are above 0."""
        known = list(values)
        places = _log_places(known) if log else _places(known)
        bare = cls(places[0], places[-1], log, ())
        told = _few(places) if log else places
        return replace(bare, ticks=tuple(Tick(bare.at(place), show(place)) for place in told))

    def at(self, value: float) -> float:
        """The place of a value."""
        ends = (self.low, self.high, value)
        low, high, here = (log10(end) if self.log else end for end in ends)
        return round(100 * (here - low) / (high - low), 2)

    def down(self, value: float) -> float:
        """The place of a value counted from the top."""
        return round(100 - self.at(value), 2)


def _places(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    found = _locator(nbins=6, steps=(1, 2, 5, 10), min_n_ticks=2).tick_values(low, high)
    return [float(place) for place in found]


def _log_places(values: list[float]) -> list[float]:
    """1, 2, 5, 10 and so on."""
    low, high = min(values), max(values)
    powers = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
    places = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    first = max(n for n, place in enumerate(places) if place <= low)
    last = min(n for n, place in enumerate(places) if place >= high)
    return places[first : max(last, first + 1) + 1]


def _few(places: list[float]) -> list[float]:
    """Where there are many, powers of ten alone."""
    tens = [place for place in places if log10(place).is_integer()]
    return places if len(places) < 6 or len(tens) < 2 else tens


def _locator(**options: Any) -> Any:
    try:
        return import_module("matplotlib.ticker").MaxNLocator(**options)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "a report needs matplotlib; install it with: pip install 'unspoken[compare]'"
        ) from error


@dataclass(frozen=True, slots=True)
class Mark:
    """A value and its interval on a line of their own; kind names its colour."""

    kind: str
    name: str
    at: float
    low: float
    high: float
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The marks of one channel, and what they come to."""

    name: str
    marks: tuple[Mark, ...]
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Forest:
    """Values with intervals, channel by channel, over one axis; lines: places to compare with."""

    axis: Axis
    rows: tuple[Row, ...]
    unit: str
    lines: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a curve and its interval; y, low and high count from the top, as pictures do."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one kind, joined by straight pieces (x1, y1, x2, y2); number gives its colour."""

    name: str
    number: int
    dots: tuple[Dot, ...]
    pieces: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one pair of axes; across and down are lines to compare with."""

    title: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    across: float
    down: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Panels side by side that share their curves."""

    panels: tuple[Panel, ...]
    told: str

    @property
    def curves(self) -> tuple[Curve, ...]:
        return self.panels[0].curves
