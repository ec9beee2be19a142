"""Where nodes, arrows and words of a graph are drawn: one column and one row apart, y upward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from unspoken.page.charts import Arrow, Graph

__all__ = ["BEND", "COLUMN", "LETTER", "LINE", "ROW", "Laid", "arrows_of", "nodes_of"]

BEND = 0.25
"""How far each further arrow between two nodes is bent, as a share of its length."""
COLUMN, ROW, LETTER, LINE = 310.0, 110.0, 8.6, 15.0
"""Sizes on a page in pixels: of a column and a row, a letter in a box, a line beside an arrow."""

_Places = dict[str, tuple[float, float]]
_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Laid:
    """An arrow with its ends and its text's place. bend: how many go between them before it."""

    arrow: Arrow
    start: tuple[float, float]
    end: tuple[float, float]
    bend: int
    text: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Box:
    """A box by its middle and its half sizes, in pixels."""

    x: float
    y: float
    wide: float
    high: float

    def holds(self, point: _Point) -> bool:
        return abs(point[0] - self.x) < self.wide and abs(point[1] - self.y) < self.high

    def meets(self, other: _Box) -> bool:
        across = abs(other.x - self.x) < self.wide + other.wide
        return across and abs(other.y - self.y) < self.high + other.high


def arrows_of(graph: Graph) -> Iterator[Laid]:
    """Each arrow. Its text is as near to it as it can be without lying on anything else."""
    places, bends = nodes_of(graph), dict[tuple[str, str], int]()
    found: list[tuple[Arrow, int, list[_Point]]] = []
    for arrow in graph.arrows:
        ends = arrow.start, arrow.end
        bends[ends] = bend = bends.get(ends, -1) + 1
        found.append((arrow, bend, _curve(places[arrow.start], places[arrow.end], bend)))
    taken = [_box(place, name) for name, place in places.items()]
    on_arrows = [point for _, _, curve in found for point in curve]
    edge = max(abs(y) for _, y in places.values()) * ROW + 0.55 * ROW
    for arrow, bend, curve in found:
        box = _free(arrow.text, curve, on_arrows, taken, edge)
        taken.append(box)
        text = box.x / COLUMN, box.y / ROW
        yield Laid(arrow, places[arrow.start], places[arrow.end], bend, text)


def _curve(start: _Point, end: _Point, bend: int) -> list[_Point]:
    """Points along an arrow in pixels, as it is drawn."""
    (x, y), (to_x, to_y) = ((COLUMN * x, ROW * y) for x, y in (start, end))
    dx, dy = to_x - x, to_y - y
    middle = (x + to_x) / 2 + BEND * bend * dy, (y + to_y) / 2 - BEND * bend * dx
    return [
        (
            (1 - t) ** 2 * x + 2 * t * (1 - t) * middle[0] + t * t * to_x,
            (1 - t) ** 2 * y + 2 * t * (1 - t) * middle[1] + t * t * to_y,
        )
        for t in (n / 80 for n in range(81))
    ]


def _box(place: _Point, name: str) -> _Box:
    return _Box(COLUMN * place[0], ROW * place[1], LETTER * len(name) / 2 + 18, 21)


_ALONG = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.12, 0.88)
_ASIDE = tuple(10.0 + 6 * n for n in range(14))


def _free(
    text: Sequence[str],
    curve: Sequence[_Point],
    arrows: Sequence[_Point],
    taken: Sequence[_Box],
    edge: float,
) -> _Box:
    """The nearest place to an arrow that is free, else the one with the least beneath it."""
    wide, high = 3.4 * max(map(len, text), default=0) + 6, LINE * len(text) / 2 + 5
    best, least = _Box(*curve[len(curve) // 2], wide, high), float("inf")
    for aside, along, side in product(_ASIDE, _ALONG, (1, -1)):
        x, y = curve[round(along * (len(curve) - 1))]
        box = _Box(x, y + side * (high + aside), wide, high)
        out = abs(box.y) + high > edge
        beneath = sum(map(box.holds, arrows)) + 50 * sum(map(box.meets, taken)) + 50 * out
        if not beneath:
            return box
        if beneath < least:
            best, least = box, beneath
    return best


def nodes_of(graph: Graph) -> _Places:
    """Each node to the right of all that have an arrow to it, at their mean height.

    >>> nodes_of(Graph(("a", "b"), (Arrow("a", "b", 1.0, "blue", "", ()),), "", ""))
    {'a': (0, 0.0), 'b': (1, 0.0)}
    """
    columns, found = _columns(graph), _Places()
    for x in sorted(set(columns.values())):
        here = [name for name in graph.nodes if columns[name] == x]
        wanted: dict[str, float] = {}
        for n, name in enumerate(here):
            before = [found[a.start][1] for a in graph.arrows if a.end == name and a.start in found]
            wanted[name] = sum(before) / len(before) if before else (len(here) - 1) / 2 - n
        y = float("inf")
        for name in sorted(here, key=lambda name: -wanted[name]):
            y = min(wanted[name], y - 1)
            found[name] = (x, y)
    return found


def _columns(graph: Graph) -> dict[str, int]:
    column, order = dict.fromkeys(graph.nodes, 0), graph.nodes
    for name in order:  # an arrow to a node before its start goes back, and moves nothing
        for arrow in graph.arrows:
            if arrow.start == name and order.index(arrow.end) > order.index(name):
                column[arrow.end] = max(column[arrow.end], column[name] + 1)
    column[order[-1]] = max(column.values())
    return column
