"""The page in Chromium: it fetches nothing, fits a phone, is readable, sorts, draws to scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pages import folder_of_results, told
from unspoken.page import (
    Arrow,
    Cell,
    Forest,
    Graph,
    Mark,
    Page,
    Row,
    Section,
    Table,
    render,
    write_picture,
)
from unspoken.results import write_page

pytestmark = pytest.mark.browser

_CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_of_results(tmp_path_factory.mktemp("page"))
    write_page(folder)
    return folder


class Opened:
    """A page in the browser, with all that it asked for and all that it complained about."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1200, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Any = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()


@pytest.fixture(scope="module")
def opened(browser: Any, out: Path) -> Opened:
    return Opened(browser, out / "report.html")


def test_it_asks_for_itself_alone_and_nothing_goes_wrong(opened: Opened, out: Path) -> None:
    fetched = [url for url in opened.requests if not url.startswith("data:")]
    assert fetched == [(out / "report.html").as_uri()]
    assert opened.complaints == []
    assert opened.page.title() == "qasc: What was the message worth?"  # the attack changes it


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
def test_it_does_not_scroll_sideways(browser: Any, out: Path, width: int) -> None:
    page = Opened(browser, out / "report.html", width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    hidden = """[...document.querySelectorAll('main *, header *')].filter(e =>
        !e.closest('.scroll, pre, .unseen, svg') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.tagName + '.' + e.className)"""
    assert page.evaluate(hidden) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_can_be_read(browser: Any, out: Path, scheme: str) -> None:
    page = Opened(browser, out / "report.html", scheme=scheme).page
    found = page.evaluate(_CONTRAST)
    assert len(found) > 300
    assert [one for one in found if one["ratio"] < 4.5] == []
    marks = page.evaluate(_CONTRAST.replace("/*what*/ 'words'", "'marks'"))
    assert len(marks) > 50
    assert [one for one in marks if one["ratio"] < 3] == []


def test_dark_and_light_differ(browser: Any, out: Path) -> None:
    papers = {
        Opened(browser, out / "report.html", scheme=scheme).page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    }
    assert len(papers) == 2


def test_a_table_is_sorted_by_the_head_that_is_pressed(opened: Opened, out: Path) -> None:
    arms = told(out)["arms"]
    table = opened.page.locator("table.sorted").first
    head = table.get_by_role("button", name="% right (95 %)")
    for up in (True, False):
        head.focus()
        opened.page.keyboard.press("Enter")
        shown = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
        values = [float(text.split()[0]) for text in shown]
        known = [round(100 * arm["accuracy"], 1) for arm in arms]
        assert values == sorted(known, reverse=not up)
        state = "ascending" if up else "descending"
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == state
    table.get_by_role("button", name="condition").click()
    words = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert words == sorted(words)
    assert table.locator("th[aria-sort]").count() == 1


def test_gains_and_contents_are_drawn_to_scale(opened: Opened, out: Path) -> None:
    places = """() => {
        const middle = e => { const r = e.getBoundingClientRect(); return r.left + r.width / 2; };
        const figure = document.querySelector('.forest');
        return {
            ticks: [...figure.querySelectorAll('.ticks text')]
                .map(e => [+e.textContent, middle(e)]),
            dots: [...figure.querySelectorAll('.plot circle')].map(middle),
            spans: [...figure.querySelectorAll('.plot')].map(plot => {
                const box = plot.querySelector('.whisker').getBoundingClientRect();
                return [box.left, box.right];
            }),
        };
    }"""
    found = opened.page.evaluate(places)
    (low, left), (high, right) = found["ticks"][0], found["ticks"][-1]
    worths = told(out)["channels"].values()
    kinds = ("gain", "content", "over_constant", "over_lora")
    drawn = [worth[kind] for worth in worths for kind in kinds if worth[kind] is not None]

    def place(value: float) -> float:
        return left + (100 * value - low) / (high - low) * (right - left)

    assert len(found["dots"]) == len(drawn)
    for one, dot, (begin, end) in zip(drawn, found["dots"], found["spans"], strict=True):
        assert dot == pytest.approx(place(one["value"]), abs=1.5)
        assert begin == pytest.approx(place(one["low"]), abs=2.5)
        assert end == pytest.approx(place(one["high"]), abs=2.5)


def test_words_that_were_heard_open_on_demand(opened: Opened) -> None:
    details = opened.page.locator("details").first
    assert not details.locator("p").is_visible()
    details.locator("summary").click()
    assert details.locator("p").is_visible()
    assert "<script>" in details.locator("p").inner_text()


# Whatever a page is given, words stay where they can be read --------------------------------------

LONG = Mark("content", "green", 71.0, 61.0, 79.0, "+71.0 [+61.0, +79.0]", "p = 1.23e-12345")
WIDE = Table(
    "A wide table",
    tuple(f"column {n}" for n in range(16)),
    (tuple(Cell.of(12345.678 * n, ",.3f") for n in range(16)),),
)
NARROW = Table("A narrow one", ("a", "b"), ((Cell.word("x"), Cell.word("y")),))


def opened_with(browser: Any, tmp_path: Path, part: Any, width: int) -> Any:
    """A page that shows one part."""
    section = Section("one", "One", (part,))
    page = Page("What?", "qasc", "private", "", (), (section,), (), "", "0")
    path = tmp_path / "page.html"
    path.write_text(render(page), encoding="utf-8")
    return Opened(browser, path, width=width).page


@pytest.mark.parametrize("width", [320, 390, 1400])
def test_long_values_stay_in_their_box(browser: Any, tmp_path: Path, width: int) -> None:
    forest = Forest((Row("a channel", (LONG,)),), "points", "Differences.", signed=True)
    page = opened_with(browser, tmp_path, forest, width)
    boxes = page.evaluate("""[...document.querySelectorAll('.value, .value *')].map(one => [
        one.getBoundingClientRect(), one.closest('figure').getBoundingClientRect()
    ]).map(([inner, outer]) => [inner.left >= outer.left, inner.right <= outer.right])""")
    assert boxes
    assert all(left and right for left, right in boxes)
    assert page.locator(".note").is_visible()


@pytest.mark.parametrize(
    ("part", "width", "shown"), [(WIDE, 390, 1), (WIDE, 1400, 1), (NARROW, 390, 0)]
)
def test_a_table_that_scrolls_says_so(
    browser: Any, tmp_path: Path, part: Table, width: int, shown: int
) -> None:
    page = opened_with(browser, tmp_path, part, width)
    assert page.get_by_text("Scroll sideways").locator("visible=true").count() == shown


def graphs() -> dict[str, Graph]:
    """Graphs of several forms: a fan, a chain with a shortcut, two agents that go in a circle."""
    text = ("embedding", "+2.69 bits, 484,588 B")

    def graph(nodes: str, *edges: str) -> Graph:
        arrows = tuple(Arrow(one[0], one[1], 0.5, "green", "content", text) for one in edges)
        return Graph(tuple(nodes), arrows, "", "")

    return {
        "fan": graph("abcde", "ae", "be", "ce", "de"),
        "spread": graph("abcd", "ab", "ac", "ad"),
        "chain": graph("abc", "ab", "bc", "ac"),
        "diamond": graph("abcd", "ab", "ac", "bd", "cd"),
        "twice": graph("ab", "ab", "ab"),
        "circle": graph("ab", "ab", "ba"),
    }


@pytest.mark.parametrize("name", graphs())
def test_no_word_of_a_graph_lies_on_an_arrow_or_on_a_box(
    browser: Any, tmp_path: Path, name: str
) -> None:
    page = opened_with(browser, tmp_path, graphs()[name], 1400)
    assert page.evaluate(_ON_EACH_OTHER) == []


_ON_EACH_OTHER = """[...document.querySelectorAll('.graph')].flatMap(graph => {
    const words = [...graph.querySelectorAll('.beside')];
    const inside = (x, y, b) =>
        x > b.x && x < b.x + b.width && y > b.y + 2 && y < b.y + b.height - 2;
    const found = [];
    for (const word of words) {
        const box = word.getBBox();
        for (const arrow of graph.querySelectorAll('.arrow'))
            for (let n = 0; n <= 100; n++) {
                const p = arrow.getPointAtLength(arrow.getTotalLength() * n / 100);
                if (inside(p.x, p.y, box)) { found.push([word.textContent, 'arrow']); break; }
            }
        for (const node of graph.querySelectorAll('.node')) {
            const b = node.getBBox();
            if (box.x < b.x + b.width && b.x < box.x + box.width && box.y < b.y + b.height
                && b.y < box.y + box.height) found.push([word.textContent, 'box']);
        }
    }
    return found;
})"""


@pytest.mark.parametrize(("scheme", "paper"), [("light", "#fffffe"), ("dark", "#1b2027")])
def test_a_picture_follows_the_screen(
    browser: Any, tmp_path: Path, scheme: str, paper: str
) -> None:
    path = tmp_path / "one.svg"
    write_picture(graphs()["fan"], path, "the title")
    page = Opened(browser, path, scheme=scheme).page
    fill = page.evaluate("getComputedStyle(document.querySelector('#patch_1 path')).fill")
    assert fill == f"rgb({', '.join(str(int(paper[n : n + 2], 16)) for n in (1, 3, 5))})"
