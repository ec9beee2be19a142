"""Charts as SVG files, for documents and reports. All that is known of matplotlib's figures."""

from __future__ import annotations

import io
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, cast

from unspoken.errors import MissingExtra
from unspoken.files import write_text
from unspoken.page.axis import Axis, panels
from unspoken.page.charts import (
    SERIES,
    Bars,
    Chart,
    Colour,
    Forest,
    Graph,
    Grid,
    Line,
    Lines,
    Mark,
    Panel,
    Scale,
)
from unspoken.page.graph import BEND, arrows_of, nodes_of

__all__ = ["COLOURS", "figure_of", "write_picture"]

COLOURS: dict[Colour, tuple[str, str]] = {
    "blue": ("#1f6f9f", "#69b4e0"),
    "orange": ("#c8583a", "#f08c6c"),
    "green": ("#24754d", "#7bd0a3"),
    "violet": ("#7d5ba6", "#bda0e6"),
    "ochre": ("#a6761d", "#e0b458"),
    "pink": ("#b0457b", "#ec8dbb"),
    "teal": ("#4d6a6d", "#9fc3c6"),
    "olive": ("#6b6f1d", "#c8cc6a"),
    "grey": ("#7f8790", "#a3abb4"),
    "slate": ("#5f7196", "#9db0d8"),
    "mauve": ("#93607f", "#d09cbb"),
    "amber": ("#8a5a00", "#e6b75c"),
    "red": ("#a83232", "#f08a8a"),
}
"""Each colour on a light and on a dark page."""

_INK, _AXIS, _SHADE, _CARD = "#1d2530", "#9aa4ae", "#f1f3f4", "#fffffe"
_DARK = {_INK: "#e6eaee", _AXIS: "#69757f", _SHADE: "#232a32", _CARD: "#1b2027"}
"""What is neither a line nor a mark, light and dark."""


def write_picture(chart: Chart, path: Path, title: str) -> None:
    """Write a chart as SVG, whole or not at all. Raises `MissingExtra` without matplotlib.

    Its colours follow the reader's screen, light or dark. Equal charts give equal bytes.
    """
    figure, buffer = figure_of(chart, title), io.BytesIO()
    with _settings(**{"svg.fonttype": "none", "svg.hashsalt": "unspoken"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=_CARD)
    words = buffer.getvalue().decode()
    write_text(path, words.replace("</metadata>", f"</metadata>\n <style>{_style()}</style>", 1))


def _style() -> str:
    """Dark colours in the places of light ones, by the styles that matplotlib writes."""
    pairs = {**dict(COLOURS.values()), **_DARK}
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in pairs.items()
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme: dark){{{rules}}}"


def figure_of(chart: Chart, title: str) -> Any:
    """A chart as a figure of matplotlib. Raises `MissingExtra`."""
    with _settings(**dict.fromkeys(_INKED, _INK), **{"axes.facecolor": "none"}):
        return _drawn(chart, title)


def _settings(**given: str) -> Any:
    """A context in which matplotlib has these settings. Raises `MissingExtra`."""
    try:
        import_module("matplotlib.figure")
        from matplotlib import rc_context  # pyright: ignore[reportUnknownVariableType]
    except ImportError as error:
        raise MissingExtra(
            "a picture needs matplotlib; install it with: pip install 'unspoken[compare]'"
        ) from error
    return rc_context(cast(Any, given))


_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")


def _drawn(chart: Chart, title: str) -> Any:
    match chart:
        case Bars():
            return _bars(chart, title)
        case Forest():
            return _forest(chart, title)
        case Lines():
            return _lines(chart, title)
        case Graph():
            return _graph(chart, title)
        case Grid():
            return _grid(chart, title)


def _figure(width: float, height: float, title: str) -> Any:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.suptitle(title, fontsize=10)
    return figure


def _legend(figure: Any, handles: list[Any], columns: int = 4) -> None:
    """Below everything."""
    if handles:
        figure.legend(
            handles=handles, frameon=False, fontsize=8, ncols=columns, loc="outside lower center"
        )


def _spread(values: list[float], lows: list[float], highs: list[float]) -> list[list[float]]:
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    return [below, above]


# Values with intervals ----------------------------------------------------------------------------


def _kinds(chart: Bars | Forest) -> dict[str, Colour]:
    """The colour of each mark's name."""
    return {mark.name: mark.colour for row in chart.rows for mark in row.marks}


def _bars(chart: Bars, title: str) -> Any:
    """Upright bars, one group a row."""
    kinds, groups = _kinds(chart), len(chart.rows)
    figure = _figure(1.6 + 1.7 * groups, 4.2, title)
    axes, width = figure.subplots(), 0.8 / len(kinds)
    for place, row in enumerate(chart.rows):
        for mark in row.marks:
            at = place + width * (list(kinds).index(mark.name) - (len(kinds) - 1) / 2)
            _bar(axes, at, width, mark)
    handles = [axes.bar([0], [0], color=COLOURS[kinds[name]][0], label=name) for name in kinds]
    axes.set_xticks(range(groups), [_broken(row.name) for row in chart.rows], fontsize=9)
    axes.set_ylabel(chart.unit)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, handles, len(kinds))
    return figure


def _bar(axes: Any, at: float, width: float, mark: Mark) -> None:
    spread = _spread([mark.value], [mark.low], [mark.high])
    error = {"lw": 0.8, "ecolor": _INK}
    axes.bar(at, mark.value, width, yerr=spread, color=COLOURS[mark.colour][0], error_kw=error)
    above = (0, 2)
    where = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 8}
    axes.annotate(f"{mark.value:.0f}", (at, max(mark.high, 0)), above, **where)


def _forest(chart: Forest, title: str) -> Any:
    """Points with intervals, one line a mark, from the top."""
    count = sum(len(row.marks) for row in chart.rows)
    figure = _figure(8.0, 1.4 + 0.26 * (count + len(chart.rows)), title)
    axes, names, y = figure.subplots(), dict[float, str](), 0.0
    for row in chart.rows:
        for mark in row.marks:
            names[y] = f"{row.name}: {mark.name}" if mark is row.marks[0] else mark.name
            spread = _spread([mark.value], [mark.low], [mark.high])
            axes.errorbar(mark.value, y, xerr=spread, fmt="o", ms=5, color=COLOURS[mark.colour][0])
            y -= 1.0
        y -= 0.6
    for guide in chart.guides:
        axes.axvline(guide, color=_AXIS, lw=1)
    axes.set_yticks(list(names), list(names.values()), fontsize=8)
    axes.set_xlabel(chart.unit)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _broken(name: str) -> str:
    return name.replace(", ", ",\n")


# Lines --------------------------------------------------------------------------------------------


_ABREAST = 3
"""The most panels in a row; more are drawn two by two."""


def _lines(chart: Lines, title: str) -> Any:
    shared = len({panel.y for panel in chart.panels}) == 1
    count = len(chart.panels)
    columns = count if count <= _ABREAST else 2
    rows = ceil(count / columns)
    figure = _figure(1.5 + 3.7 * columns, 1.2 + 3.4 * rows, title)
    found: list[Any] = []
    handles: dict[str, Any] = {}
    for number, (panel, across, y) in enumerate(panels(chart)):
        with_first = {"sharey": found[0]} if shared and found else {}
        found.append(axes := figure.add_subplot(rows, columns, number + 1, **with_first))
        for line, more in panel.stacked():
            _line(axes, line, more)
        handles |= {name: one for name, one in _guides(axes, panel) if name not in handles}
        axes.set_xlabel(panel.x.label)
        labelled = not shared or number % columns == 0
        axes.set_ylabel(panel.y if labelled else "")
        axes.tick_params(labelleft=labelled)
        _scaled(axes, panel.x, across)
        room = 0.03 * (y.high - y.low)
        axes.set_ylim(y.low - room, y.high + room)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, [*(_key(found[0], line) for line in chart.legend), *handles.values()])
    return figure


def _line(axes: Any, line: Line, more: int) -> None:
    """Its path, and its dots with their intervals. more: how many lines are drawn onto it."""
    colour, shape = _look(line)
    if line.path:
        xs, ys = zip(*line.path, strict=True)
        axes.plot(xs, ys, ":" if line.dotted else "-", color=colour, lw=1.2 + 2.4 * more)
    if line.dots:
        ys, lows, highs = ([getattr(dot, end) for dot in line.dots] for end in ("y", "low", "high"))
        along, spread = [dot.x for dot in line.dots], _spread(ys, lows, highs)
        size = 4 + 3 * more
        axes.errorbar(along, ys, yerr=spread, fmt=shape, color=colour, ms=size, elinewidth=0.6)


def _look(line: Line) -> tuple[str, str]:
    """Its colour and its marker."""
    return COLOURS[SERIES[line.number % 8]][0], "osD^vPX*"[line.number % 8]


def _key(axes: Any, line: Line) -> Any:
    """The entry of a line in the legend."""
    colour, shape = _look(line)
    path = ":" if line.dotted else "-"
    style = f"{shape if line.dots else ''}{path if line.path else ''}"
    return axes.plot([], [], style, color=colour, ms=4, lw=1.2, label=line.name)[0]


def _guides(axes: Any, panel: Panel) -> list[tuple[str, Any]]:
    found = [
        (guide.name, axes.axhline(guide.value, color=_AXIS, ls=":", lw=1.2, label=guide.name))
        for guide in panel.across
    ]
    found += [
        (guide.name, axes.axvline(guide.value, color=_AXIS, lw=1, label=guide.name))
        for guide in panel.upright
    ]
    return found


def _scaled(axes: Any, scale: Scale, axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    if scale.log:
        axes.set_xscale("log")
        axes.set_xlim(axis.low, axis.high)
        axes.set_xticks([tick.value for tick in axis.ticks], [tick.text for tick in axis.ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif scale.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# Graphs and grids ---------------------------------------------------------------------------------

_TEXT = {"boxstyle": "round,pad=0.15", "fc": _CARD, "ec": "none", "alpha": 0.85}
_NODE = {"boxstyle": "round,pad=0.5", "fc": _SHADE, "ec": _AXIS}


def _graph(chart: Graph, title: str) -> Any:
    places = nodes_of(chart)
    columns = 1 + max(x for x, _ in places.values())
    heights = [y for _, y in places.values()]
    figure = _figure(1.5 + 3.0 * columns, 2.0 + 1.0 * (max(heights) - min(heights)), title)
    axes = figure.subplots()
    for laid in arrows_of(chart):
        style = {
            "arrowstyle": "-|>",
            "color": COLOURS[laid.arrow.colour][0],
            "lw": 1 + 7 * laid.arrow.weight,
            "mutation_scale": 18,
            "shrinkA": 34,
            "shrinkB": 34,
            "connectionstyle": f"arc3,rad={BEND * laid.bend}",
        }
        axes.annotate("", laid.end, laid.start, arrowprops=style)
        text = "\n".join(laid.arrow.text)
        axes.text(*laid.text, text, ha="center", va="center", fontsize=8, bbox=_TEXT)
    for name, (x, y) in places.items():
        axes.text(x, y, name, ha="center", va="center", fontsize=10, bbox=_NODE)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(min(heights) - 0.7, max(heights) + 0.7)
    axes.set_axis_off()
    handles = [
        axes.plot([], [], color=COLOURS[colour][0], lw=4, label=name)[0]
        for name, colour in chart.legend.items()
    ]
    _legend(figure, handles, 3)
    return figure


def _grid(chart: Grid, title: str) -> Any:
    figure = _figure(2.6 + 0.4 * len(chart.columns), 2.4, title)
    axes = figure.subplots()
    for y, (_, tiles) in enumerate(chart.rows):
        for x, tile in enumerate(tiles):
            axes.add_patch(_tile(x, y, tile.strength))
    axes.set_xlim(-0.5, len(chart.columns) - 0.5)
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    handles: list[Any] = []
    for shape, name, marked in (("o", chart.marked, True), ("x", chart.unmarked, False)):
        found = [
            (x, y)
            for y, (_, tiles) in enumerate(chart.rows)
            for x, tile in enumerate(tiles)
            if tile.marked == marked
        ]
        across, down = [x for x, _ in found], [y for _, y in found]
        style = {"marker": shape, "color": COLOURS["orange"][0], "s": 24, "label": name}
        handles.append(axes.scatter(across, down, **style))
    axes.set_xticks(range(len(chart.columns)), ["\n".join(c) for c in chart.columns], fontsize=7)
    axes.set_yticks(range(len(chart.rows)), [name for name, _ in chart.rows], fontsize=9)
    axes.set_xlabel(chart.across, fontsize=9)
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower right", ncols=2)
    return figure


def _tile(x: float, y: float, strength: float) -> Any:
    """A field of a grid: the stronger, the less of the page shows through."""
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, color=COLOURS["blue"][0], alpha=strength, lw=0)
