"""The page that shows agents at work, in Chromium, before a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.watched import BOTH, SCREENS, Watched
from tests.serving.conftest import Running, served
from tests.serving.models import Paced, long_model, pair, scripted
from unspoken.agents import Agent, Edge, Role
from unspoken.channels import TextChannel, make_channel
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds
from unspoken.testing import ScriptedModel, tiny_backbone, tiny_diffusion
from unspoken.types import Settings

pytestmark = pytest.mark.browser

KEY = "a-key-that-is-long-enough"
HOSTILE = (
    "<script>document.title = 'taken'</script><img src='http://evil.example/x.png' "
    "onerror=\"document.title='taken'\"> ![x](http://evil.example/y.png) </script><b>bold</b>"
)
SHOWN = {"unspoken": True}
ARABIC = "المفتاح في العلية!"


def said(agent: str, words: str | Callable[[str], str]) -> Agent:
    """An agent that says something."""
    model = ScriptedModel(words if callable(words) else lambda _: words)
    return Agent(agent, model, role=Role(chat=False), settings=Settings(10_000))


def team() -> Pipeline:
    """Two agents write to a third, one of them in Arabic, and one means ill."""
    agents = [said("clerk", HOSTILE), said("مدقق", ARABIC), said("solver", "In the attic.")]
    return Pipeline(agents, [Edge(name, "solver", TextChannel()) for name in ("clerk", "مدقق")])


def handed() -> Pipeline:
    """Two agents, of which one hands its cache to the other."""
    agents = [Agent(name, long_model(), settings=Settings(8)) for name in ("planner", "solver")]
    return Pipeline(agents, [Edge("planner", "solver", make_channel("handoff"))])


def talkers(rounds: int) -> Pipeline:
    """Two agents that talk for some rounds."""
    agents = [said("one", "ping"), said("two", "pong")]
    edges = [Edge("one", "two", TextChannel()), Edge("two", "one", TextChannel())]
    return Pipeline(agents, edges, rounds=rounds)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One server for all tests that change nothing of it."""
    echo = scripted(lambda words: f"[{words}]")
    pipelines = {"team": team(), "words": pair(), "cache": handed(), "talkers": talkers(100)}
    with served({**pipelines, "echo": echo}, (), Bounds()) as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_full_run(browser: Any, running: Running, width: int, scheme: str) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("team")
    watched.ask("Where is the key?")
    watched.ended()
    assert watched.texts(".turn h4 bdi") == ["clerk", "مدقق", "solver"]
    assert watched.texts(".turn .words") == [HOSTILE, ARABIC, "In the attic."]
    assert watched.texts(".turn .state") == ["done"] * 3
    assert watched.texts(".node.done") == ["clerk", "مدقق", "solver"]
    shown = running.chat(("user", "Where is the key?"), model="team", extra_body=SHOWN)
    messages = shown.unspoken["messages"]
    sizes = [f"text · {one['bytes']} B" for one in messages]
    assert watched.texts(".edge ~ text") == sizes
    assert all(
        size in line for size, line in zip(sizes, watched.texts(".messages li"), strict=True)
    )
    directions = "[...document.querySelectorAll('.turn .words p')].map(e => e.matches(':dir(rtl)'))"
    assert watched.page.evaluate(directions) == [False, True, False]
    assert watched.page.title() == "Watch agents work"
    assert watched.page.locator("#runs img, #runs script, #runs b").count() == 0
    told = set(watched.announced())
    assert {"team: clerk begins.", "team: solver has finished.", "The answer is there."} & told
    assert not any("attic" in line for line in told)
    watched.check()


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_two_side_by_side(browser: Any, running: Running, width: int, scheme: str) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("words", "cache")
    watched.ask("Where is the key?")
    watched.ended()
    found = []
    for name in ("words", "cache"):
        shown = running.chat(("user", "Where is the key?"), model=name, extra_body=SHOWN)
        costs = shown.unspoken["costs"].values()
        sent = sum(one["bytes"] for one in shown.unspoken["messages"])
        unit = f"{sent} B" if sent < 1000 else f"{sent / 1000:.1f} kB"
        tokens = sum(one["read"] + one["reused"] for one in costs)
        written = sum(one["written"] for one in costs)
        found.append((shown.choices[0].message.content.strip(), tokens, written, unit))
    cells = watched.texts(".numbers td .value")
    rows = [tuple(cells[n::2]) for n in (0, 1)]
    for (_, tokens, written, unit), (*_, read, wrote, sent, reused) in zip(
        found, rows, strict=True
    ):
        assert (int(read) + int(reused), int(wrote), sent) == (tokens, written, unit)
    assert watched.texts(".answered .words") == [answer for answer, *_ in found]
    (sentence,) = watched.texts(".differs")
    (words, cache) = rows
    for told in ("began its answer after", "took", "read", "wrote", "sent"):
        assert f" {told} " in sentence
    assert sentence.endswith(
        f"wrote {cache[3]} instead of {words[3]} and sent {cache[4]} instead of {words[4]}."
    )
    assert f"took {cache[1]} instead of {words[1]}" in sentence  # the numbers that are shown
    silent = "It wrote no words. What it has computed is its message."
    assert watched.texts(".turn .note") == [silent]
    bars = "[...document.querySelectorAll('.numbers tbody tr')].map(row => [...row.querySelectorAll"
    bars += "('.bar')].map(bar => bar.getBoundingClientRect().width))"
    *_, sizes, kept = watched.page.evaluate(bars)
    assert 3 <= sizes[0] < sizes[1]
    assert kept == [0, 0]  # what need not be read again is no cost
    watched.check()


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_an_error_in_the_middle_leaves_the_page_usable(
    browser: Any, width: int, scheme: str
) -> None:
    model = Paced("abcdef")
    with served({"solver": Pipeline([Agent("solver", model)])}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/", width, color_scheme=scheme)
        model.allow(3)
        watched.choose("solver")
        watched.ask("Go?")
        watched.page.get_by_text("abc", exact=True).wait_for()
        model.broken = RuntimeError("a secret of the server")
        model.allow(1)
        watched.ended()
        (told,) = watched.texts(".failed")
        assert told == "the server failed to answer; its log says why"
        assert watched.texts(".turn .state") == ["given up"]
        assert watched.announced()[-1] == f"Not to the end: {told}"
        watched.check()
        model.broken = None
        model.allow()
        watched.page.get_by_role("button", name="Try again").click()
        watched.page.get_by_text("abcdef", exact=True).wait_for()
        watched.ended()
        assert watched.texts(".turn .state") == ["done", "given up"]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_lost_connection_comes_back(
    browser: Any, running: Running, width: int, scheme: str
) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("echo")
    frame = {"unspoken": {"type": "turn_started", "agent": "solver", "round": 1, "step": 1}}
    cut = f"data: {json.dumps(frame)}\n\ndata: {{"
    path = "**/v1/chat/completions"
    for way in (lambda route: route.fulfill(body=cut), lambda route: route.abort()):
        watched.page.route(path, way)
        watched.ask("Still there?")
        watched.ended()
        watched.page.unroute(path)
        assert "was lost" in watched.texts(".failed")[0]
        watched.page.get_by_role("button", name="Try again").first.click()
        watched.page.locator(".answer").first.wait_for()
        watched.ended()
        watched.complaints.clear()  # the browser's own, of what was cut
        watched.check()
        watched.page.get_by_role("button", name="New conversation").click()
        assert watched.texts(".exchange") == []


def test_a_run_that_is_stopped_ends_at_the_server(browser: Any) -> None:
    model = Paced("abcdef")
    with served({"solver": Pipeline([Agent("solver", model)])}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/")
        model.allow(1)
        watched.choose("solver")
        watched.ask("Go?")
        watched.page.get_by_text("a", exact=True).wait_for()
        watched.page.get_by_role("button", name="Stop").click()
        watched.ended()
        assert watched.texts(".failed") == ["You stopped this run."]
        assert model.ended.wait(60)
        assert model.finish == "cancelled"
        assert model.written == 1


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_two_hundred_turns(browser: Any, running: Running, width: int, scheme: str) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("talkers")
    watched.ask("Begin.")
    watched.ended()
    assert watched.page.locator(".turn").count() == 200
    assert watched.texts(".turn .words") == ["ping", "pong"] * 100
    sent = running.chat(("user", "Begin."), model="talkers", extra_body=SHOWN).unspoken["messages"]
    assert watched.page.locator(".messages li").count() == len(sent) >= 199
    assert watched.texts(".edge ~ text")[0].startswith("100 × text · ")
    assert watched.page.evaluate("window.lost") == 0  # what is written is never written again
    watched.check()


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_words_from_right_to_left(browser: Any, running: Running, width: int, scheme: str) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("echo")
    watched.page.fill("#question", ARABIC)
    assert watched.page.evaluate("document.getElementById('question').matches(':dir(rtl)')")
    watched.page.keyboard.press("Enter")
    watched.ended()
    assert watched.texts(".answer .words") == [f"[{ARABIC}]"]
    for selector in (".exchange h2", ".answer .words p"):
        assert watched.page.locator(selector).evaluate("e => e.matches(':dir(rtl)')")
    for selector in (".numbers", ".cost", "html"):
        assert watched.page.locator(selector).evaluate("e => e.matches(':dir(ltr)')")
    watched.check()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_messages_travel_unless_less_motion_is_wished(
    browser: Any, running: Running, width: int, scheme: str, motion: str
) -> None:
    more = {"color_scheme": scheme, "reduced_motion": motion}
    watched = Watched(browser, running.url + "/", width, **more)
    watched.choose("words")
    watched.ask("Where is the key?")
    watched.ended()
    still = motion == "reduce"
    assert watched.page.evaluate("window.dots") == (0 if still else 1)
    lasts = watched.page.locator(".node rect").first.evaluate(
        "e => getComputedStyle(e).transitionDuration"
    )
    assert lasts == ("0s" if still else "0.2s, 0.2s")
    watched.check()


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_all_of_it_by_keys(browser: Any, running: Running, width: int, scheme: str) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.page.wait_for_selector("#model option", state="attached")

    def tab() -> str:
        watched.page.keyboard.press("Tab")
        outlined = "getComputedStyle(document.activeElement).outlineStyle"
        assert watched.page.evaluate(outlined) == "solid"
        return watched.page.evaluate(
            "(({id, innerText}) => id || innerText)(document.activeElement)"
        )

    assert tab() == "Skip to what agents do"
    assert tab() == "model"
    watched.page.keyboard.type("team")
    assert [tab() for _ in range(3)] == ["other", "readings", "question"]
    watched.page.keyboard.type("Where is the key?")
    assert tab() == "ask"
    watched.page.keyboard.press("Enter")
    watched.ended()
    assert watched.texts(".answer .words") == ["In the attic."]
    reached = [tab() for _ in range(3)]
    assert reached == ["anew", "Where is the key?", "Keep this run as a file"]
    with watched.page.expect_download():
        watched.page.keyboard.press("Enter")
    watched.page.keyboard.press("Shift+Tab")
    watched.page.keyboard.press("Enter")  # fold the run up
    assert watched.page.locator(".exchange[open]").count() == 0
    watched.check()


def test_a_long_text_grows_in_short_paragraphs(browser: Any) -> None:
    model = Paced("A line of some words.\n" * 500)
    agents = [Agent("solver", model, role=Role(chat=False), settings=Settings(100_000))]
    bounds = Bounds(unread=1 << 26)  # the model is faster than any
    with served({"solver": Pipeline(agents)}, (), bounds) as found:
        watched = Watched(browser, found.url + "/", 390)
        watched.choose("solver")
        model.allow(4000)
        watched.ask("Go on.")
        watched.page.locator(".words p").nth(2).wait_for()
        model.allow(100_000)
        watched.ended()
        parts = watched.page.locator(".words p").all_text_contents()
        assert "".join(parts).strip() == model.script("").strip()
        assert len(parts) > 5
        assert {len(part) for part in parts[:-1]} == {1012}  # 46 lines
        assert watched.page.evaluate("window.lost") == 0


def test_many_agents_can_be_read_on_a_phone(browser: Any) -> None:
    names = [f"a reader of paper {n}" for n in range(7)]
    agents = [said(name, "Yes.") for name in (*names, "solver")]
    pipeline = Pipeline(agents, [Edge(name, "solver", TextChannel()) for name in names])
    with served({"solver": pipeline}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/", 390)
        watched.choose("solver")
        watched.ask("Is it so?")
        watched.ended()
        high = "[...document.querySelectorAll('.node text')].map(e => e.getBoundingClientRect())"
        boxes = watched.page.evaluate(
            f"{high}.map(({{left, right, height}}) => [left, right, height])"
        )
        assert len(boxes) == 8
        assert all(0 < left < right < 390 and height > 11 for left, right, height in boxes)


def test_agents_read_words_and_files(browser: Any) -> None:
    role = Role(template="{notes}|{documents}|{question}", chat=False)
    agent = Agent("solver", ScriptedModel(str), role=role, settings=Settings(10_000))
    with served({"solver": Pipeline([agent]), "echo": scripted("no")}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/", 390, color_scheme="dark")
        watched.choose("solver", "echo")
        watched.page.fill("[data-name=notes] textarea", "a note")
        files = [
            {"name": name, "mimeType": "text/plain", "buffer": words.encode()}
            for name, words in (("a.md", HOSTILE), ("ب.md", ARABIC))
        ]
        watched.page.set_input_files("[data-name=documents] input", files)
        watched.ask("Who?")
        watched.ended()
        read = f"a note|## a.md\n{HOSTILE}\n\n## ب.md\n{ARABIC}\n\n|Who?"
        assert watched.texts(".answer .words") == [read, "no"]
        assert watched.texts(".given summary") == ["given: notes", "given: documents"]
        given = watched.page.locator(".given .words").all_text_contents()
        assert given == ["a note", f"a.md\n{HOSTILE}", f"ب.md\n{ARABIC}"]
        watched.choose("echo")
        assert watched.page.locator(".field").count() == 0
        watched.choose("solver")
        watched.check()


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_messages_open_to_their_reading(
    browser: Any, running: Running, width: int, scheme: str
) -> None:
    watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
    watched.choose("team", "cache")
    watched.page.check("#readings")
    watched.ask("Where is the key?")
    watched.ended()
    asked = {"model": "cache", "extra_body": {"unspoken": {"readings": True}}}
    (sent,) = running.chat(("user", "Where is the key?"), **asked).unspoken["messages"]
    words = watched.page.locator(".messages .words")
    assert not words.first.is_visible()
    for line in watched.page.locator(".messages summary").all():
        line.focus()
        watched.page.keyboard.press("Enter")
    assert words.first.is_visible()
    assert watched.texts(".messages .words") == [HOSTILE, ARABIC, sent["reading"]["words"]]
    watched.check()


def test_vectors_open_to_their_nearest_words(browser: Any) -> None:
    agents = [Agent(name, tiny_backbone(), settings=Settings(8)) for name in ("a", "b")]
    pipeline = Pipeline(agents, [Edge("a", "b", make_channel("soft"))])
    with served({"solver": pipeline}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/", 390)
        watched.choose("solver")
        watched.page.check("#readings")
        watched.ask("Where is the key?")
        watched.ended()
        watched.page.locator(".messages summary").click()
        (written, near) = watched.texts(".messages .words")
        assert written
        assert near.count(" · ") + 1 == int(watched.texts(".messages summary")[0].split()[-2])
        told = "What b makes of it, which is a reading and no proof:"
        assert told in watched.texts(".messages .note")
        watched.check()


def test_a_canvas_fills_pass_by_pass(browser: Any) -> None:
    agents = [Agent("planner", tiny_diffusion(), settings=Settings(8)), said("solver", "Yes.")]
    pipeline = Pipeline(agents, [Edge("planner", "solver", TextChannel())])
    with served({"solver": pipeline}, (), Bounds()) as found:
        watched = Watched(browser, found.url + "/", 390)
        watched.choose("solver")
        watched.ask("Go?")
        watched.ended()
        masks = [canvas.count("░") for canvas in watched.page.evaluate("window.canvases")]
        assert masks == sorted(masks, reverse=True)
        assert masks[0] > masks[-1] == 0
        assert watched.page.locator(".canvas").count() == 0  # its words are there instead
        assert watched.texts(".turn .words")[0]


def test_a_conversation_has_its_history(browser: Any, running: Running) -> None:
    watched = Watched(browser, running.url + "/")
    watched.choose("echo")
    answers = ("[First?]", "[First? [First?]\n\nSecond?]")
    for question, answer in zip(("First?", "Second?"), answers, strict=True):
        watched.ask(question)
        watched.ended()
        assert watched.texts(".answer .words")[0] == answer
    assert watched.page.locator(".exchange[open]").count() == 1
    watched.page.get_by_role("button", name="New conversation").click()
    watched.ask("First?")
    watched.ended()
    assert watched.texts(".answer .words") == ["[First?]"]
    assert watched.page.evaluate("document.activeElement.id") == "question"


def test_a_key_stays_in_memory(browser: Any) -> None:
    with served({"echo": scripted("Yes.")}, [KEY], Bounds()) as found:
        watched = Watched(browser, found.url + "/")
        for key in ("a wrong key, a wrong key", KEY):
            watched.page.fill("#key", key)
            watched.page.keyboard.press("Enter")
            watched.page.wait_for_function("document.getElementById('key').value === ''")
        watched.choose("echo")
        watched.ask("Yes?")
        watched.ended()
        assert watched.texts(".answer .words") == ["Yes."]
        assert not any(KEY in url for url in watched.requests)
        assert KEY not in watched.page.content()
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        assert KEY not in watched.page.evaluate(kept)
        assert not watched.page.locator("#key").is_visible()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_kept_run_replays_alone(
    browser: Any, running: Running, tmp_path: Path, motion: str
) -> None:
    watched = Watched(browser, running.url + "/")
    watched.choose("team", "words")
    watched.ask(HOSTILE)
    watched.ended()
    with watched.page.expect_download() as download:
        watched.page.get_by_role("button", name="Keep this run").click()
    path = tmp_path / "run.html"
    download.value.save_as(path)
    kept = Watched(browser, path.as_uri(), 390, reduced_motion=motion)
    if motion == "reduce":  # all of it is there at once
        assert kept.page.locator(".turn").count() == 5
    kept.page.locator(".differs").wait_for()
    for selector in (".turn .words", ".cost", ".numbers .value", ".differs", ".exchange h2"):
        assert kept.texts(selector) == watched.texts(selector)
    if motion == "reduce":
        assert kept.page.locator(".dot").count() == 0
    assert kept.requests == [path.as_uri(), *kept.requests[1:]]
    assert kept.page.locator("#runs img, #runs script, #runs b").count() == 0
    kept.check()
    kept.page.get_by_role("button", name="Replay").click()
    kept.page.locator(".differs").wait_for()
    assert kept.texts(".turn .words") == watched.texts(".turn .words")
