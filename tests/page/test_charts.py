"""Charts as data, drawn on a page and into a file, both SVG, with the same values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest

from unspoken.page import (
    SERIES,
    Arrow,
    Bars,
    Cell,
    Chart,
    Colour,
    Dot,
    Forest,
    Graph,
    Grid,
    Guide,
    Heading,
    Line,
    Lines,
    Mark,
    Page,
    Panel,
    Points,
    Row,
    Scale,
    Section,
    Table,
    Tile,
    render,
    write_picture,
)
from unspoken.page.axis import Axis, panels, row_axis
from unspoken.page.graph import arrows_of, nodes_of
from unspoken.page.picture import COLOURS, figure_of
from unspoken.page.svg import drawn_graph

MARKS = (
    Mark("matched", "blue", 40.0, 30.0, 55.0, "40.0 (30-55)"),
    Mark("none", "grey", 4.0, 0.0, 9.0, "4.0 (0-9)", "p = 0.01"),
)
ROWS = (Row("text", MARKS, "content", "green"), Row("text, tuned", MARKS[:1]))
DOTS = tuple(Dot(x, y, y - 5, y + 5, f"at {x}") for x, y in ((0.0, 60.0), (2.0, 40.0), (8.0, 10.0)))
CURVE = Line.through("words", 1, DOTS)
DOTTED = Line("", 1, path=((2.0, 3.0), (8.0, 5.0)), dotted=True)
LINES = Lines(
    (
        Panel(Scale("bytes", log=True), "wrong, %", (CURVE, DOTTED), (Guide(90, "alone"),)),
        Panel(Scale("hop", whole=True), "wrong, %", (CURVE,), upright=(Guide(3, "most"),)),
    ),
    "Wrong answers.",
    "Wrong answers of words",
)
GRAPH = Graph(
    ("library", "clerk", "guesser", "solver"),
    (
        Arrow("library", "clerk", 1.0, "green", "content", ("text", "+2.7 bits")),
        Arrow("clerk", "solver", 0.5, "green", "content", ("text", "+1.0 bits")),
        Arrow("clerk", "solver", 0.1, "grey", "nothing", ("layers", "+0.1 bits")),
        Arrow("guesser", "solver", 0.1, "red", "harm", ("text", "-0.1 bits")),
    ),
    "Edges.",
    "A graph",
)
GRID = Grid(
    (("4", "7"), ("5", "8")),
    (
        ("keys", (Tile(0.9, True), Tile(0.2, False))),
        ("values", (Tile(0.6, True), Tile(0.5, False))),
    ),
    "layers",
    "open",
    "shut",
    "Gates.",
    "2 of 4 gates open",
)
CHARTS: dict[str, Chart] = {
    "forest": Forest(ROWS, "points", "Differences.", guides=(0.0,), signed=True),
    "bars": Bars(ROWS, "% right", "Right answers."),
    "lines": LINES,
    "graph": GRAPH,
    "grid": GRID,
}


def page(*parts: object) -> str:
    section = Section("one", "One", parts)
    return render(Page("What?", "qasc", "private", "", (), (section,), (), "", "0"))


def drawings(text: str) -> list[ElementTree.Element]:
    """The figures of a page, as XML."""
    found = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    return [ElementTree.fromstring(one) for one in found]


@pytest.mark.parametrize("kind", CHARTS)
def test_every_chart_is_drawn_both_ways(kind: str, tmp_path: Path) -> None:
    chart = CHARTS[kind]
    (figure,) = drawings(page(chart))
    assert chart.caption in "".join(figure.itertext())
    assert figure.findall(".//svg")
    path = tmp_path / "sub" / "one.svg"
    write_picture(chart, path, "the title")
    words = [text.text for text in ElementTree.parse(path).iter(f"{SVG}text")]
    assert "the title" in words
    first = path.read_bytes()
    write_picture(chart, path, "the title")
    assert path.read_bytes() == first


SVG = "{http://www.w3.org/2000/svg}"


def test_a_page_and_pictures_have_each_colour_in_light_and_dark() -> None:
    style = Path("unspoken/page/templates/style.css")
    text = (Path(__file__).parents[2] / style).read_text(encoding="utf-8")
    light, dark = text.split("@media (prefers-color-scheme: dark)", 1)
    names = set(get_args(Colour))
    assert set(SERIES) < names == set(COLOURS)
    for name, (by_day, by_night) in COLOURS.items():
        assert f"--{name}: {by_day};" in light
        assert f"--{name}: {by_night};" in dark.split("}", 1)[0]
        assert f".{name} {{ --mark: var(--{name}); }}" in text


@pytest.mark.parametrize("kind", CHARTS)
def test_a_picture_has_no_colour_that_stays_light_at_night(kind: str, tmp_path: Path) -> None:
    write_picture(CHARTS[kind], tmp_path / "one.svg", "the title")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    turned = set(re.findall(r'\[style\*="((?:fill|stroke): #\w{6})"\]', text))
    styles = " ".join(re.findall(r'style="([^"]*)"', text))
    assert set(re.findall(r"(?:fill|stroke): #\w+", styles)) <= turned
    shapes = ElementTree.fromstring(text.encode()).iter(f"{SVG}text")
    assert all("fill: #" in text.attrib["style"] for text in shapes)
    assert not re.search(r"<image|color: ", text)


EQUAL = Lines(
    (
        Panel(
            Scale("hop"),
            "right, %",
            (CURVE, Line.through("vectors", 2, DOTS), Line.through("caches", 3, DOTS[1:])),
        ),
    ),
    "Right answers.",
    "Right answers",
)


def test_lines_that_are_equal_are_drawn_in_two_widths_and_named() -> None:
    assert [more for _, more in EQUAL.panels[0].stacked()] == [1, 0, 0]
    assert EQUAL.equal == ("“words” and “vectors” are equal.",)
    assert LINES.equal == ()
    (figure,) = drawings(page(EQUAL))
    assert EQUAL.equal[0] in "".join(figure.itertext())
    widths = [
        {piece.attrib["stroke-width"] for piece in group.findall("./line[@class='piece']")}
        for group in figure.findall(".//svg[@class='xy']/g")
    ]
    assert widths == [{"6"}, {"2"}, {"2"}]
    drawn = figure_of(EQUAL, "").axes[0].lines
    assert len({line.get_linewidth() for line in drawn if len(line.get_xdata()) == 3}) > 1


def test_bars_and_points_are_at_their_values() -> None:
    bars = figure_of(CHARTS["bars"], "").axes[0]
    assert [bar.get_height() for bar in bars.patches][:3] == [40.0, 4.0, 40.0]
    assert row_axis(Bars(ROWS, "", "")).low == 0
    points = figure_of(CHARTS["forest"], "").axes[0]
    assert [one[0].get_xdata()[0] for one in points.containers] == [40.0, 4.0, 40.0]
    assert [tick.text for tick in row_axis(CHARTS["forest"]).ticks][:2] == ["0", "+10"]


def ticks_of(axes: Any) -> tuple[Any, Any]:
    """The words under an axis, and where they are."""
    return axes.get_xticklabels(), axes.get_xticks()


def test_lines_are_at_their_values_and_zero_has_no_place_on_a_logarithmic_axis() -> None:
    by_bytes, by_hop = figure_of(LINES, "").axes
    for axes in (by_bytes, by_hop):
        assert axes.containers[0][0].get_xydata().tolist() == [[dot.x, dot.y] for dot in DOTS]
    (first, across, upward), (second, _, _) = panels(LINES)
    assert (by_bytes.get_xscale(), by_bytes.get_xlim()) == ("log", (across.low, across.high))
    shown = {tick.get_text(): place for tick, place in zip(*ticks_of(by_bytes), strict=True)}
    assert shown == {tick.text: tick.value for tick in across.ticks} == {"2": 2, "5": 5, "10": 10}
    assert (across.log, across.low, across.high) == (True, 2, 10)
    assert (upward.low, upward.high) == (
        0,
        100,
    )  # of both panels, with the guide
    assert (first.x.label, second.x.label) == ("bytes", "hop")
    (figure,) = drawings(page(LINES))
    marks = [
        len(panel.findall(".//svg[@class='marker']"))
        for panel in figure.findall(".//div[@class='panel']")
    ]
    assert marks == [2, 3]


def test_the_legend_names_each_line_and_each_guide_once() -> None:
    assert [line.name for line in LINES.legend] == ["words"]
    assert LINES.guides == ("alone", "most")
    names = [text.get_text() for text in figure_of(LINES, "").legends[0].get_texts()]
    assert names == ["words", "alone", "most"]
    (figure,) = drawings(page(LINES))
    shown = ["".join(item.itertext()).strip() for item in figure.findall(".//ul/li")]
    assert shown == names


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2), (5, 3)])
def test_many_panels_are_drawn_two_by_two_and_name_what_goes_up_at_the_left(
    count: int, rows: int
) -> None:
    front = Line("front", 1, path=((1.0, 1.0), (2.0, 1.0)), dotted=True)
    panel = Panel(Scale("seconds"), "right, %", (*LINES.panels[0].lines, front))
    figure = figure_of(Lines((panel,) * count, "", ""), "")
    assert [axes.get_subplotspec().get_geometry()[0] for axes in figure.axes] == [rows] * count
    left = [axes.get_subplotspec().is_first_col() for axes in figure.axes]
    assert [axes.get_ylabel() == "right, %" for axes in figure.axes] == left
    assert figure.legends[0].get_lines()[-1].get_linestyle() == ":"


def test_nodes_are_behind_those_that_point_at_them() -> None:
    places = nodes_of(GRAPH)
    assert [places[name][0] for name in GRAPH.nodes] == [0, 1, 0, 2]
    assert len(set(places.values())) == 4
    assert [one.bend for one in arrows_of(GRAPH)] == [0, 0, 1, 0]
    drawn = drawn_graph(GRAPH)
    for node in drawn.nodes:
        assert 0 < node.x - node.width / 2 < node.x + node.width / 2 < drawn.width
        assert 0 < node.y < drawn.height
    widths = [one.width for one in drawn.arrows]
    assert widths[0] > widths[1] > widths[2] == widths[3]
    axes = figure_of(GRAPH, "").axes[0]
    assert set(GRAPH.nodes) <= {text.get_text() for text in axes.texts}


def test_an_arrow_back_moves_nothing() -> None:
    arrows = tuple(Arrow(a, b, 1.0, "blue", "", ()) for a, b in (("a", "b"), ("b", "a")))
    assert nodes_of(Graph(("a", "b"), arrows, "", "")) == {"a": (0, 0.0), "b": (1, 0.0)}


def test_a_grid_that_was_kept_is_read_again_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gates.json"
    assert Grid.read(path) is None
    GRID.write(path)
    assert Grid.read(path) == GRID
    path.write_text(path.read_text()[:-9])
    assert Grid.read(path) is None


def test_words_tables_and_points_are_laid_out_in_their_order() -> None:
    table = Table("A table", ("name", "value"), ((Cell.word("one"), Cell.of(2.5, ".2f")),))
    text = page("It is **very** good.", Heading("More"), Points(["first", "<second>"]), table)
    body = text[text.index("<main") :]
    places = [body.index(one) for one in ("<strong>very</strong>", "More", "first", "2.50")]
    assert places == sorted(places)
    assert "&lt;second&gt;" in body
    assert "<second>" not in body


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.0, 0.0], False),
        ([0.3], False),
        ([-0.2, 0.9], False),
        ([5.0, 5.0], True),
        ([1.0, 12.0], True),
        ([90.0, 23861.0], True),
        ([1e-3, 1e6], True),
        ([0.0, 4.0, 9.0], True),
    ],
)
def test_an_axis_holds_all_values_between_round_ends(values: list[float], log: bool) -> None:
    axis = Axis.over(values, log=log)
    assert axis.low < axis.high
    for value in values:
        assert axis.has(value) == (value > 0 or not log)
        assert not axis.has(value) or 0 <= axis.at(value) <= 100
    places = [tick.at for tick in axis.ticks]
    assert places == sorted(set(places))
    assert places[0] >= 0
    assert places[-1] <= 100
    assert 2 <= len(places) <= 11
    assert log or (places[0], places[-1]) == (0, 100)
    for tick in axis.ticks:
        assert axis.at(float(tick.text.replace(",", ""))) == pytest.approx(tick.at, abs=0.01)


def test_hops_are_counted_in_whole_numbers() -> None:
    assert [tick.text for tick in Axis.over([1.0, 4.0], whole=True).ticks] == ["1", "2", "3", "4"]
