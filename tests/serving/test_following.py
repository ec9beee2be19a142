"""Runs that others follow: who comes late sees all of it, and following is not owning."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from time import sleep
from typing import Any

import httpx
import pytest

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import Paced, long_model, scripted, solver
from tests.serving.test_requests import is_refused
from unspoken.agents import Agent, Edge
from unspoken.channels import make_channel
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds
from unspoken.serving.following import Follower, Runs, ShownRun
from unspoken.types import Settings

HI = ("user", "Where is the key?")
SHOWN = {"unspoken": True}
KEY, OTHER = "a-key-that-is-long-enough", "another-key-that-is-long"


@contextmanager
def asked(running: Running, model: str = "solver") -> Iterator[Callable[[], Any]]:
    """A run that somebody asks. What it gives is called for the answer."""
    found = list[Any]()

    def ask() -> None:
        found.append(running.chat(HI, model=model, stream=False, extra_body=SHOWN))

    thread = threading.Thread(target=ask)
    thread.start()

    def answer() -> Any:
        thread.join(60)
        return found[0]

    try:
        yield answer
    finally:
        thread.join(60)


def run_of(running: Running) -> dict[str, Any]:
    """The only run that there is, once it is there."""
    for _ in range(600):
        if found := running.get("/v1/runs").json()["data"]:
            (run,) = found
            return run
        sleep(0.05)
    raise AssertionError("there is no run")


class Following:
    """A client that follows a run, by a connection of its own."""

    def __init__(self, running: Running, name: str) -> None:
        self.client = httpx.Client(verify=False, timeout=60)
        self.stack = ExitStack()
        self.stack.enter_context(self.client)
        headers = {"Authorization": f"Bearer {running.key}"}
        asks = self.client.stream("GET", f"{running.url}/v1/runs/{name}", headers=headers)
        self.response = self.stack.enter_context(asks)
        assert self.response.status_code == 200
        assert self.response.headers["content-type"].startswith("text/event-stream")
        lines = self.response.iter_lines()
        self.frames = (line.removeprefix("data: ") for line in lines if line.startswith("data: "))

    def next(self) -> dict[str, Any]:
        return json.loads(next(self.frames))

    def rest(self) -> list[dict[str, Any]]:
        """What comes up to the end, which is said once."""
        *found, last = list(self.frames)
        assert last == "[DONE]"
        return [json.loads(frame) for frame in found]

    def close(self) -> None:
        self.stack.close()


Follow = Callable[[Running, str], Following]


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Makes clients that follow runs, and closes them with the test."""
    with ExitStack() as open_:

        def start(running: Running, name: str) -> Following:
            follower = Following(running, name)
            open_.callback(follower.close)
            return follower

        yield start


def words(events: list[dict[str, Any]], kind: str = "answer") -> list[str]:
    return [event["words"] for event in events if event["type"] == kind]


def written(model: Paced, letters: int) -> None:
    """Wait until the model has written so many letters."""
    for _ in range(1200):
        if model.written == letters:
            sleep(0.1)  # the loop is told
            return
        sleep(0.05)
    raise AssertionError(model.written)


def test_who_comes_late_gets_what_was_and_what_comes(serve: Serve, follow: Follow) -> None:
    model = Paced("abcdefgh")
    running = serve(solver(model))
    with asked(running) as answer:
        model.allow(3)
        written(model, 3)
        run = run_of(running)
        told = {"model": "solver", "question": HI[1], "over": False}
        assert {name: run[name] for name in told} == told
        early = [follow(running, run["id"]) for _ in range(2)]
        for one in early:
            snapshot = one.next()
            assert snapshot["type"] == "snapshot"
            assert [event["type"] for event in snapshot["events"]] == ["turn_started", "answer"]
            assert words(snapshot["events"]) == ["abc"]  # in one piece
            assert snapshot["at"] >= snapshot["events"][-1]["at"] >= 0
        model.allow(2)
        written(model, 5)
        late = follow(running, run["id"])
        assert words(late.next()["events"]) == ["abcde"]
        early[0].close()  # who goes away takes nothing along
        model.allow()
        assert answer().choices[0].message.content == "abcdefgh"
        for one, expected in ((early[1], "defgh"), (late, "fgh")):
            events = one.rest()
            assert "".join(words(events)) == expected
            assert [e["type"] for e in events if e["type"] != "answer"] == ["turn_ended", "ended"]
            assert events[-1]["finish"] == "stop"
    over = follow(running, run["id"])  # who lost the connection sees the end
    events = over.next()["events"]
    assert words(events) == ["abcdefgh"]
    assert events[-1]["type"] == "ended"
    assert over.rest() == []
    assert run_of(running)["over"]


def test_all_that_is_shown_is_told_to_followers(serve: Serve, follow: Follow) -> None:
    model = Paced("upstairs")
    agents = [Agent("clerk", model), Agent("solver", long_model(), settings=Settings(8))]
    running = serve({"team": Pipeline(agents, [Edge("clerk", "solver", make_channel("text"))])})
    with asked(running, "team") as answer:
        follower = follow(running, run_of(running)["id"])
        events = follower.next()["events"]
        model.allow()
        events += follower.rest()
        shown = answer().unspoken
    assert "".join(words(events, "words")) == "upstairs"
    (message,) = (dict(event) for event in events if event["type"] == "message")
    assert message.pop("type") == "message"
    assert message.pop("at") >= 0
    assert [message] == shown["messages"]
    turns = [event for event in events if event["type"] == "turn_ended"]
    assert [turn["text"] for turn in turns] == [turn["text"] for turn in shown["turns"]]


def test_fifty_followers_cost_the_model_nothing(serve: Serve, follow: Follow) -> None:
    gate, model = Paced("go"), long_model()
    passes = [0]

    def count(*_: Any) -> None:
        passes[-1] += 1

    model.body.layers[0].register_forward_hook(count)
    agents = [Agent("gate", gate), Agent("solver", model, settings=Settings(8))]
    running = serve({"team": Pipeline(agents, [Edge("gate", "solver", make_channel("text"))])})
    answers = list[str]()
    for followers in (0, 0, 50):  # the first run finds out about the model
        running.service.pools["local"].forget("local")
        passes.append(0)
        with asked(running, "team") as answer:
            assert gate.asked.acquire(timeout=60)
            name = [run["id"] for run in running.get("/v1/runs").json()["data"]][-1]
            following = [follow(running, name) for _ in range(followers)]
            events = [one.next()["events"] for one in following]
            gate.allow(2)
            answers.append(answer().choices[0].message.content)
        for one, so_far in zip(following, events, strict=True):
            assert "".join(words(so_far + one.rest())).strip() == answers[0].strip()
            one.close()
    assert passes[2] == passes[3] >= 8  # a pass for each word
    assert len(set(answers)) == 1


def test_a_follower_who_takes_nothing_holds_nobody_up(serve: Serve, follow: Follow) -> None:
    model = Paced("x" * 20_000)
    running = serve(solver(model), stall=0.2, unread=1 << 23)
    with asked(running) as answer:
        run = run_of(running)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running.port))
        with closing(client):
            head = f"GET /v1/runs/{run['id']} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            client.sendall(head.encode())
            follower = follow(running, run["id"])
            events = follower.next()["events"]
            model.allow(20_000)
            assert sum(map(len, words(events + follower.rest()))) == 20_000
            assert answer().choices[0].message.content == "x" * 20_000
    assert model.finish == "stop"


def test_who_stops_following_is_forgotten_at_once(serve: Serve, follow: Follow) -> None:
    model = Paced("abc")
    running = serve(solver(model), followers=1)
    with asked(running) as answer:
        name = run_of(running)["id"]
        follower = follow(running, name)
        assert is_refused(running.get(f"/v1/runs/{name}"), 429)
        follower.next()
        follower.close()
        for _ in range(100):
            if not any(run.followers for run in running.service.runs.of("local")):
                break
            sleep(0.05)
        follow(running, name).close()
        model.allow()
        assert answer().choices[0].message.content == "abc"


def test_the_end_of_the_asker_is_told(serve: Serve, follow: Follow) -> None:
    model = Paced("abc")
    running = serve(solver(model))
    with closing(socket.create_connection(("127.0.0.1", running.port))) as client:
        data = json.dumps(body(HI, stream=True, **SHOWN)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        )
        client.sendall(head.encode() + b"\r\n\r\n" + data)
        model.allow(1)
        assert model.asked.acquire(timeout=60)
        follower = follow(running, run_of(running)["id"])
        events = follower.next()["events"]
    events += follower.rest()
    assert events[-1]["type"] in ("ended", "error")
    assert events[-1].get("finish", "cancelled") == "cancelled"
    assert model.finish == "cancelled"


def test_a_failure_is_told_without_its_secret(serve: Serve, follow: Follow) -> None:
    model = Paced("abc")
    running = serve(solver(model))
    with ExitStack() as stack:
        thread = threading.Thread(target=lambda: running.post(body(HI, **SHOWN)))
        thread.start()
        stack.callback(thread.join, 60)
        follower = follow(running, run_of(running)["id"])
        model.broken = RuntimeError("a secret of the server")
        model.allow(1)
        events = follower.next()["events"] + follower.rest()
    assert events[-1]["type"] == "error"
    assert events[-1]["message"] == "the server failed to answer; its log says why"


def test_runs_are_for_the_key_that_asked(serve: Serve, follow: Follow) -> None:
    running = serve(scripted("yes"), keys=[KEY, OTHER])
    running.chat(HI, extra_body=SHOWN)
    name = run_of(running)["id"]
    other = {"headers": {"Authorization": f"Bearer {OTHER}"}}
    assert running.get("/v1/runs", **other).json()["data"] == []
    assert is_refused(running.get(f"/v1/runs/{name}", **other), 404)
    nobody = {"headers": {"Authorization": ""}}
    for path in ("/v1/runs", f"/v1/runs/{name}"):
        assert is_refused(running.get(path, **nobody), 401)
    assert running.get(f"/v1/runs/{name}").status_code == 200


def test_a_list_has_the_beginning_of_a_question(serve: Serve) -> None:
    running = serve(scripted("yes"))
    running.chat(("user", "Why? " * 10_000), extra_body=SHOWN)
    assert run_of(running)["question"] == "Why? " * 40


def test_what_is_not_shown_cannot_be_followed(serve: Serve, follow: Follow) -> None:
    running = serve(scripted("yes"))
    found = running.chat(HI)
    assert running.get("/v1/runs").json()["data"] == []
    assert is_refused(running.get(f"/v1/runs/{found.id}"), 404)


def test_who_falls_behind_gets_all_of_it_in_short() -> None:
    async def told() -> None:
        run = ShownRun("1", "local", "solver", "Why?")
        follower = Follower(run, most=2000)
        run.followers.add(follower)
        first = _events(await follower.next())
        assert [event["type"] for event in first] == ["snapshot"]
        for _ in range(10):
            run.take("a")
        assert [event["words"] for event in _events(await follower.next())] == ["a"] * 10
        for _ in range(1000):
            run.take("b")
        (snapshot,) = _events(await follower.next())
        assert words(snapshot["events"]) == ["a" * 10 + "b" * 1000]
        run.take({"type": "canvas", "step": 1, "words": [None, None], "pass": 1})
        run.take({"type": "canvas", "step": 1, "words": ["x", None], "pass": 2})
        run.end(None)
        assert not follower.done
        events = _events(await follower.next())
        assert [event["type"] for event in events] == ["canvas", "canvas", "error"]
        assert follower.done
        (snapshot,) = _events(run.snapshot())
        (canvas,) = (event for event in snapshot["events"] if event["type"] == "canvas")
        assert canvas["pass"] == 2

    asyncio.run(told())


def _events(frames: bytes) -> list[dict[str, Any]]:
    parts = [part.removeprefix("data: ") for part in frames.decode().split("\n\n")]
    return [json.loads(part) for part in parts if part and part != "[DONE]"]


def test_few_runs_that_are_over_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(Bounds())
    for n in range(200):
        runs.begin(str(n), "local", "solver", "Why?").end(None)
    assert 0 < len(list(runs.of("local"))) <= 65
    monkeypatch.setattr("unspoken.serving.following._KEPT", 0.0)
    assert list(runs.of("local")) == []
