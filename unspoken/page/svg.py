"""Graphs and grids as SVG: the places, in pixels, of what the template draws."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

from unspoken.page.charts import Arrow, Graph, Grid
from unspoken.page.graph import BEND, COLUMN, LETTER, LINE, ROW, Laid, arrows_of, nodes_of

__all__ = ["Drawn", "DrawnGraph", "DrawnGrid", "drawn_graph", "drawn_grid"]


_HIGH = 34.0


@dataclass(frozen=True, slots=True)
class Node:
    """A box with its middle and its size."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """An arrow. path, head: as SVG has them; text: each line with its place."""

    arrow: Arrow
    path: str
    head: str
    width: float
    text: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class DrawnGraph:
    """A graph in pixels."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    arrows: tuple[Drawn, ...]


def drawn_graph(graph: Graph) -> DrawnGraph:
    """The boxes and arrows of a graph."""
    places = nodes_of(graph)
    wide = {name: LETTER * len(name) + 28 for name in graph.nodes}
    margin = max(wide.values()) / 2 + 4
    top = max(y for _, y in places.values())
    low = min(y for _, y in places.values())

    def pixels(place: tuple[float, float]) -> tuple[float, float]:
        return margin + COLUMN * place[0], 0.6 * ROW + ROW * (top - place[1])

    nodes = tuple(Node(name, *pixels(places[name]), wide[name], _HIGH) for name in graph.nodes)
    boxes = {node.name: node for node in nodes}
    return DrawnGraph(
        width=2 * margin + COLUMN * max(x for x, _ in places.values()),
        height=1.2 * ROW + ROW * (top - low),
        nodes=nodes,
        arrows=tuple(
            _arrow(one, boxes[one.arrow.start], boxes[one.arrow.end], pixels(one.text))
            for one in arrows_of(graph)
        ),
    )


def _arrow(laid: Laid, start: Node, end: Node, text: tuple[float, float]) -> Drawn:
    dx, dy = end.x - start.x, end.y - start.y
    width = 1.5 + 6.5 * laid.arrow.weight
    long = 7 + 1.6 * width
    begin, stop = _edge(start, dx, dy, 3), _edge(end, -dx, -dy, 3)
    bend = BEND * laid.bend
    middle = (begin[0] + stop[0]) / 2 - bend * dy, (begin[1] + stop[1]) / 2 + bend * dx
    ux, uy = _unit(stop[0] - middle[0], stop[1] - middle[1])
    base = stop[0] - long * ux, stop[1] - long * uy
    half = 4 + 0.75 * width
    corners = (
        stop,
        (base[0] - half * uy, base[1] + half * ux),
        (base[0] + half * uy, base[1] - half * ux),
    )
    x, y = text[0], text[1] - LINE * (len(laid.arrow.text) - 1) / 2
    return Drawn(
        laid.arrow,
        path=f"M{_pair(begin)}Q{_pair(middle)} {_pair(base)}",
        head=" ".join(map(_pair, corners)),
        width=round(width, 1),
        text=tuple((x, y + LINE * n, line) for n, line in enumerate(laid.arrow.text)),
    )


def _edge(node: Node, dx: float, dy: float, gap: float) -> tuple[float, float]:
    """Where a line from the middle of a box leaves it, and a little on."""
    across = (node.width / 2) / abs(dx) if dx else float("inf")
    upright = (node.height / 2) / abs(dy) if dy else float("inf")
    share = min(across, upright) + gap / hypot(dx, dy)
    return node.x + share * dx, node.y + share * dy


def _unit(dx: float, dy: float) -> tuple[float, float]:
    length = hypot(dx, dy) or 1.0
    return dx / length, dy / length


def _pair(place: tuple[float, float]) -> str:
    return f"{place[0]:.1f},{place[1]:.1f}"


_TILE, _LEFT = 30.0, 64.0


@dataclass(frozen=True, slots=True)
class DrawnGrid:
    """A grid in pixels: the side of a tile, and where the first one begins."""

    grid: Grid
    tile: float
    left: float
    width: float
    height: float
    foot: float


def drawn_grid(grid: Grid) -> DrawnGrid:
    """The tiles of a grid, and room for the lines below each column."""
    tall = _TILE * len(grid.rows)
    lines = max(len(column) for column in grid.columns)
    width = _LEFT + _TILE * len(grid.columns) + 2
    return DrawnGrid(grid, _TILE, _LEFT, width, tall + LINE * lines + 8, tall)
