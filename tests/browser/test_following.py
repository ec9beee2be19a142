"""Runs that somebody else has asked, as pages follow them, and pages without a server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep
from typing import Any

import pytest

from tests.browser.watched import BOTH, Watched
from tests.serving.conftest import Running, served
from tests.serving.models import Paced
from unspoken.agents import Agent, Edge
from unspoken.channels import TextChannel
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds

pytestmark = pytest.mark.browser

QUESTION = ("user", "Where is the key?")
LOST = "The connection to the server was lost before the answer was there."


@contextmanager
def asked(letters: int = 3) -> Iterator[tuple[Running, Paced, list[Any]]]:
    """A run of two agents that another client has asked. The second has written some letters."""
    model, answers = Paced("abcdefgh"), list[Any]()
    agents = [Agent("clerk", Paced("up")), Agent("solver", model)]
    agents[0].model.allow()
    pipeline = Pipeline(agents, [Edge("clerk", "solver", TextChannel())])
    with served({"team": pipeline}, (), Bounds()) as running:

        def ask() -> None:
            shown = {"unspoken": True}
            answers.append(running.chat(QUESTION, model="team", extra_body=shown))

        thread = threading.Thread(target=ask)
        thread.start()
        model.allow(letters)
        wait_for(lambda: model.written == letters)
        try:
            yield running, model, answers
        finally:
            model.allow()
            thread.join(60)


def wait_for(there: Any) -> None:
    for _ in range(1200):
        if there():
            return
        sleep(0.05)
    raise AssertionError("it never came")


def followers(running: Running) -> int:
    return sum(len(run.followers) for run in running.service.runs.of("local"))


def said(answers: list[Any]) -> str:
    wait_for(lambda: answers)
    return answers[0].choices[0].message.content


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_a_run_is_watched_that_was_opened_late(browser: Any, width: int, scheme: str) -> None:
    with asked() as (running, model, answers):
        pages = [Watched(browser, running.url + "/", width, color_scheme=scheme) for _ in range(2)]
        for watched in pages:
            watched.page.get_by_role("button", name="Watch team: Where is the key?").press("Enter")
            watched.page.get_by_text("abc", exact=True).wait_for()
            assert watched.texts(".turn .words") == ["up", "abc"]
            assert watched.texts(".node.done") == ["clerk"]
            assert watched.texts(".node.busy") == ["solver"]
            assert watched.texts(".edge ~ text")[0].startswith("text · ")
            costs = watched.texts(".numbers td .value")  # they grow while it runs
            assert costs[0].endswith(" s")
            assert (costs[3], costs[4]) == ("2", watched.texts(".edge ~ text")[0][7:])
            watched.check()
        gone, watched = pages
        gone.page.get_by_role("button", name="Stop watching").click()
        gone.ended()
        assert gone.texts(".failed") == ["You stopped watching. The run goes on."]
        wait_for(lambda: followers(running) == 1)
        model.allow()
        watched.ended()
        assert watched.texts(".turn .words") == ["up", "abcdefgh"]
        assert watched.announced()[-1] == "The answer is there."
        assert said(answers) == "abcdefgh"
        gone.page.get_by_role("button", name="Watch again").click()
        gone.page.get_by_text("abcdefgh", exact=True).first.wait_for()
        watched.check()
        assert watched.page.locator("#others").is_hidden()


@pytest.mark.parametrize(("width", "scheme"), BOTH)
def test_a_lost_follower_comes_back_by_itself(browser: Any, width: int, scheme: str) -> None:
    with asked() as (running, model, answers):
        watched = Watched(browser, running.url + "/", width, color_scheme=scheme)
        start = '{"type": "turn_started", "agent": "solver", "round": 1, "step": 2, "at": 1}'
        cut = f'data: {{"type": "snapshot", "at": 1, "events": [{start}]}}\n\ndata: {{'
        path = "**/v1/runs/*"
        watched.page.route(path, lambda route: route.fulfill(body=cut))
        watched.page.get_by_role("button", name="Watch team").click()
        watched.page.get_by_text("tries to come back").wait_for()
        watched.page.unroute(path)
        watched.page.get_by_text("abc", exact=True).wait_for()
        assert watched.texts(".turn .words") == ["up", "abc"]  # nothing twice, nothing left out
        model.allow()
        watched.ended()
        assert watched.texts(".turn .words") == ["up", "abcdefgh"]
        assert said(answers) == "abcdefgh"
        watched.complaints.clear()
        watched.check()


def test_a_hidden_tab_gives_its_stream_back(browser: Any) -> None:
    hide = (
        "now => { Object.defineProperty(document, 'hidden', { value: now, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); }"
    )
    with asked() as (running, model, _):
        watched = Watched(browser, running.url + "/")
        watched.page.get_by_role("button", name="Watch team").click()
        watched.page.get_by_text("abc", exact=True).wait_for()
        assert followers(running) == 1
        watched.page.evaluate(hide, True)
        wait_for(lambda: followers(running) == 0)
        model.allow(2)
        wait_for(lambda: model.written == 5)
        watched.page.evaluate(hide, False)
        watched.page.get_by_text("abcde", exact=True).wait_for()
        model.allow()
        watched.ended()
        assert watched.texts(".turn .words") == ["up", "abcdefgh"]
        watched.check()


@contextmanager
def alone(port: int, letters: int) -> Iterator[subprocess.Popen[str]]:
    """A server that can be killed."""
    command = [sys.executable, "-m", "tests.serving.alone", str(port), str(letters)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert str(port) in process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("width", "scheme"), BOTH[1:])
def test_a_server_is_killed_while_pages_watch(browser: Any, width: int, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with alone(port, 3) as process:
        asker = Watched(browser, url, width, color_scheme=scheme)
        asker.choose("solver")
        asker.ask("Go?")
        asker.page.get_by_text("abc", exact=True).wait_for()
        other = Watched(browser, url, width, color_scheme=scheme)
        other.page.get_by_role("button", name="Watch solver").click()
        other.page.get_by_text("abc", exact=True).wait_for()
        process.kill()
        asker.ended()
        assert asker.texts(".failed") == [LOST]
        assert asker.texts(".turn .words") == ["abc"]  # what was there stays
        assert asker.texts(".turn .state") == ["given up"]
        assert asker.announced()[-1] == f"Not to the end: {LOST}"
        other.page.get_by_text("tries to come back").wait_for()
        asker.page.get_by_role("button", name="Try again").click()
        asker.page.wait_for_function("document.querySelectorAll('.failed').length === 2")
        assert asker.texts(".failed") == [LOST, LOST]  # it is still away
    with alone(port, 100):
        asker.page.get_by_role("button", name="Try again").first.click()
        asker.page.get_by_text("abcdef", exact=True).wait_for()
        asker.ended()
        assert asker.texts(".turn .state")[0] == "done"
        other.ended()
        assert "there is no run" in other.texts(".failed")[0]  # a new server knows none of before
        for watched in (asker, other):
            watched.complaints.clear()  # the browser's own, of the server that was away
            watched.check()
