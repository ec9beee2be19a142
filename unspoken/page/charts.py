"""Charts as data, in the units that are shown. `svg` draws them on a page, `picture` in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from unspoken.files import write_text

__all__ = [
    "SERIES",
    "Arrow",
    "Bars",
    "Chart",
    "Colour",
    "Dot",
    "Forest",
    "Graph",
    "Grid",
    "Guide",
    "Line",
    "Lines",
    "Mark",
    "Panel",
    "Row",
    "Scale",
    "Tile",
]

Colour = Literal[
    "blue",
    "orange",
    "green",
    "violet",
    "ochre",
    "pink",
    "teal",
    "olive",
    "grey",
    "slate",
    "mauve",
    "amber",
    "red",
]
"""A colour by name; a page has one of that name for light and one for dark."""

SERIES: tuple[Colour, ...] = (
    "blue",
    "orange",
    "green",
    "violet",
    "ochre",
    "pink",
    "teal",
    "olive",
)
"""The colours of lines, in their order."""


# Values with intervals ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """A value and its interval. text: both in words; note: what else is known of it."""

    name: str
    colour: Colour
    value: float
    low: float
    high: float
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Marks that belong together, such as those of one channel, and their verdict."""

    name: str
    marks: tuple[Mark, ...]
    verdict: str = ""
    tone: Colour = "grey"


@dataclass(frozen=True)
class Forest:
    """Points with intervals, row by row. guides: values to compare with; signed: +5, not 5."""

    rows: tuple[Row, ...]
    unit: str
    caption: str
    guides: tuple[float, ...] = ()
    signed: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars from zero with intervals, row by row."""

    rows: tuple[Row, ...]
    unit: str
    caption: str


# Lines --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """What an x axis counts. log: logarithmic; whole: only whole numbers."""

    label: str
    log: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A point, the interval of its y, and the text that is shown when it is pointed at."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """Dots of one kind, and the path that is drawn as (x, y).

    number: of its colour and its marker, counted over the whole chart. A line without a name is not
    in the legend.
    """

    name: str
    number: int
    dots: tuple[Dot, ...] = ()
    path: tuple[tuple[float, float], ...] = ()
    dotted: bool = False

    @classmethod
    def through(cls, name: str, number: int, dots: tuple[Dot, ...]) -> Line:
        """A line from dot to dot."""
        return cls(name, number, dots, tuple((dot.x, dot.y) for dot in dots))

    def lies_on(self, other: Line) -> bool:
        """Whether it goes through the same points."""
        return bool(self.path or self.dots) and _places(self) == _places(other)


def _places(line: Line) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    path = [(round(x, 9), round(y, 9)) for x, y in line.path]
    return path, [(round(dot.x, 9), round(dot.y, 9)) for dot in line.dots]


@dataclass(frozen=True, slots=True)
class Guide:
    """A value to compare with, drawn across the whole panel."""

    value: float
    name: str


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes. y: what it counts; across: guides at a y; upright: at an x."""

    x: Scale
    y: str
    lines: tuple[Line, ...]
    across: tuple[Guide, ...] = ()
    upright: tuple[Guide, ...] = ()

    def stacked(self) -> tuple[tuple[Line, int], ...]:
        """Each line, and how many later ones lie on it: it is drawn that much wider."""
        return tuple(
            (line, sum(later.lies_on(line) for later in self.lines[n:]))
            for n, line in enumerate(self.lines, 1)
        )


@dataclass(frozen=True)
class Lines:
    """Panels side by side; equal y have one axis. text: for readers who see no picture."""

    panels: tuple[Panel, ...]
    caption: str
    text: str

    @property
    def legend(self) -> tuple[Line, ...]:
        """Each line that has a name, once."""
        named = [line for panel in self.panels for line in panel.lines if line.name]
        first: dict[str, Line] = {}
        for line in named:
            first.setdefault(line.name, line)
        return tuple(first.values())

    @property
    def equal(self) -> tuple[str, ...]:
        """A sentence for each two lines with names that lie on each other in a panel."""
        found = [
            f"“{line.name}” and “{later.name}” are equal"
            + (f" by {panel.x.label}." if len(self.panels) > 1 else ".")
            for panel in self.panels
            for n, line in enumerate(panel.lines, 1)
            for later in panel.lines[n:]
            if line.name and later.name and later.lies_on(line)
        ]
        return tuple(dict.fromkeys(found))

    @property
    def guides(self) -> tuple[str, ...]:
        """The names of all guides, each once."""
        every = [guide for panel in self.panels for guide in (*panel.across, *panel.upright)]
        return tuple(dict.fromkeys(guide.name for guide in every))


# Graphs and grids ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrow:
    """From one node to another. weight: of its width, 0 to 1; text: lines beside it.

    meaning: of its colour, for the legend.
    """

    start: str
    end: str
    weight: float
    colour: Colour
    meaning: str
    text: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in their order and arrows between them. text: for readers who see no picture."""

    nodes: tuple[str, ...]
    arrows: tuple[Arrow, ...]
    caption: str
    text: str

    @property
    def legend(self) -> dict[str, Colour]:
        """The colour of each meaning."""
        return {arrow.meaning: arrow.colour for arrow in self.arrows}


@dataclass(frozen=True, slots=True)
class Tile:
    """One field of a grid: how strong it is, 0 to 1, and whether it has the mark."""

    strength: float
    marked: bool


@dataclass(frozen=True)
class Grid:
    """Fields of different strength. rows: name and fields; columns: the lines above each field.

    marked, unmarked: what fields with and without the mark are. text: for readers who see no
    picture.
    """

    columns: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    across: str
    marked: str
    unmarked: str
    caption: str
    text: str

    def write(self, path: Path) -> None:
        """Save the chart as JSON, for a page that is made later."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Grid | None:
        """A chart that was saved; None if there is none or it is damaged."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None


Chart = Forest | Bars | Lines | Graph | Grid
