"""Where the nodes and arrows of a graph are drawn: one column and one row apart, y upward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unspoken.page.charts import Arrow, Graph

__all__ = ["BEND", "Laid", "arrows_of", "nodes_of"]

BEND = 0.25
"""How far each further arrow between two nodes is bent, as a share of its length."""

_Places = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Laid:
    """An arrow with its ends and its text's place. bend: how many go between them before it."""

    arrow: Arrow
    start: tuple[float, float]
    end: tuple[float, float]
    bend: int
    text: tuple[float, float]


def arrows_of(graph: Graph) -> Iterator[Laid]:
    """Each arrow. Its text is near its start, on the side where no other arrow ends."""
    places, bends = nodes_of(graph), dict[tuple[str, str], int]()
    for arrow in graph.arrows:
        ends = arrow.start, arrow.end
        bends[ends] = bend = bends.get(ends, -1) + 1
        (x, y), (to_x, to_y) = places[arrow.start], places[arrow.end]
        along = 0.5 / (to_x - x) if to_x > x else 0.3
        steep = abs(to_y - y) / max(abs(to_x - x), 1)
        aside = (0.22 + 0.16 * steep) * (-1 if to_y > y else 1) - 0.3 * bend
        text = x + along * (to_x - x), y + along * (to_y - y) + aside
        yield Laid(arrow, (x, y), (to_x, to_y), bend, text)


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
