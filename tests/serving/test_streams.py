"""Streams: what comes when, how they end, and who goes away."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import openai
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import Paced, long_model, pair, scripted, solver
from unspoken.agents import Agent, Edge, Role
from unspoken.backbone.rows import WritingRow
from unspoken.channels import TextChannel
from unspoken.pipeline import Pipeline
from unspoken.serving import Service, make_app, server
from unspoken.serving.refusals import Refusal
from unspoken.serving.workers import Job
from unspoken.types import Settings
from unspoken.until import Phrase

HI = ("user", "hi")


@contextmanager
def streamed(running: Running, **more: Any) -> Iterator[Iterator[str]]:
    """The lines of a stream as they come."""
    given = body(HI, stream=True, **more)
    with running.http.stream("POST", f"{running.url}/v1/chat/completions", json=given) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert "no-cache" in response.headers["cache-control"]
        yield response.iter_lines()


def frames(lines: Iterator[str]) -> Iterator[Any]:
    """What is in the frames, '[DONE]' as it is."""
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def delta(frame: Any) -> Any:
    return frame["choices"][0]["delta"]


def text(pieces: list[Any]) -> str:
    return "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)


def test_role_comes_at_once_and_comments_while_nothing_else_does(serve: Serve) -> None:
    model = Paced("abc")
    running = serve(solver(model), quiet=0.01)
    with streamed(running) as lines:
        assert delta(next(frames(lines))) == {"role": "assistant", "content": ""}
        assert next(line for line in lines if line.startswith(":"))
        model.allow(1)
        assert delta(next(frames(lines))) == {"content": "a"}
        assert next(line for line in lines if line.startswith(":"))
        model.allow()
        rest = list(frames(lines))
    assert rest[-1] == "[DONE]"
    assert [frame["choices"][0]["finish_reason"] for frame in rest[:-1]] == [None, None, "stop"]


def test_a_stream_begins_although_no_thread_is_free(serve: Serve) -> None:
    model = Paced("abc")
    running = serve(solver(model), running=1, patience=0.01)
    with streamed(running) as first, streamed(running) as second:
        for lines in (first, second):
            assert delta(next(frames(lines)))["role"] == "assistant"
        model.allow()
        for lines in (first, second):
            assert list(frames(lines))[-1] == "[DONE]"


@pytest.mark.parametrize("limit", [2, 100])
def test_the_reason_is_null_and_then_said_once(serve: Serve, limit: int) -> None:
    running = serve(scripted("abcd"))
    pieces = running.pieces(HI, max_tokens=limit)
    reasons = [one.choices[0].finish_reason for one in pieces]
    assert set(reasons[:-1]) == {None}
    assert reasons[-1] == running.chat(HI, max_tokens=limit).choices[0].finish_reason
    assert reasons[-1] == ("length" if limit == 2 else "stop")


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        (None, False),
        ({}, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
    ],
)
@pytest.mark.parametrize("limit", [2, 100])
def test_usage_comes_for_include_usage_alone(
    serve: Serve, options: Any, whole: bool, limit: int
) -> None:
    running = serve(scripted("abcd"))
    more = {} if options is None else {"stream_options": options}
    pieces = running.pieces(HI, max_tokens=limit, **more)
    with_usage = [one for one in pieces if one.usage is not None]
    assert len(with_usage) == whole
    if whole:
        assert pieces[-1] is with_usage[0]
        assert pieces[-1].choices == []
        assert pieces[-1].usage == running.chat(HI, max_tokens=limit).usage
    refused = running.post({**body(HI), "stream_options": {"include_usage": True}})
    assert refused.json()["error"]["param"] == "stream_options"


# -- stop strings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stop", "answer"),
    [
        ("one two END three", "END", "one two"),
        ("one EN two END", "END", "one EN two"),
        ("one EN", "END", "one EN"),
        ("one E", ["END", "EXIT"], "one E"),
        ("one EXIT two END", ["END", "EXIT"], "one"),
        ("END", "END", ""),
        ("  one \n two  ", "END", "one \n two"),
        ("Kůň 两个 🙂END", "🙂END", "Kůň 两个"),
    ],
)
def test_a_stop_string_is_held_back_and_let_go(
    words: str, stop: Any, answer: str, writes: Callable[[str], Any], serve: Serve
) -> None:
    """The words are those of a tiny model, whose tokens are bytes."""
    running = serve(solver(writes(words), tokens=100))
    whole = running.chat(HI, stop=stop)
    assert whole.choices[0].message.content == answer
    assert whole.choices[0].finish_reason == "stop"
    pieces = running.pieces(HI, stop=stop)
    assert text(pieces) == answer
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_a_stop_string_is_added_to_those_of_the_recipe(
    serve: Serve, writes: Callable[[str], Any]
) -> None:
    agent = Agent("solver", writes("one two three"), settings=Settings(100, stop=("three",)))
    running = serve(Pipeline([agent]))
    assert running.chat(HI, stop="nine").choices[0].message.content == "one two"
    assert running.chat(HI, stop="two").choices[0].message.content == "one"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A tiny model that writes these words and an end token, whatever it reads."""

    def made(words: str) -> Any:
        model, plain = long_model(), WritingRow.take
        ids = [*model.tokens(words), model.tokenizer.eos_token_id]

        def take(row: WritingRow, token: int) -> None:
            plain(row, ids[len(row.ids)])

        monkeypatch.setattr(WritingRow, "take", take)
        return model

    return made


# -- what else is shown ----------------------------------------------------------------------------


def test_on_request_turns_messages_and_costs_are_told(serve: Serve) -> None:
    running = serve(pair(tokens=6))
    run = running.service.served["solver"].pipeline.run("hi")
    assert not hasattr(running.chat(HI), "unspoken")
    whole = running.chat(HI, extra_body={"unspoken": True})
    told = whole.unspoken
    assert [(one["agent"], one["text"]) for one in told["turns"]] == [
        (turn.agent, turn.text) for turn in run.turns
    ]
    (message,) = told["messages"]
    assert (message["from"], message["to"], message["channel"]) == ("planner", "solver", "text")
    assert message["bytes"] == run.costs["planner"].wire
    assert set(told["costs"]) == {"planner", "solver"}
    pieces = running.pieces(HI, extra_body={"unspoken": True})
    assert text(pieces) == run.answer == whole.choices[0].message.content
    shown = [one.unspoken for one in pieces if hasattr(one, "unspoken")]
    assert [one["type"] for one in shown if one["type"] != "words"] == [
        "turn_started", "message", "turn_ended", "turn_started", "turn_ended", "ended",
    ]  # fmt: skip
    written = "".join(one["words"] for one in shown if one["type"] == "words")
    assert written == run.turns[0].text
    assert not [one for one in running.pieces(HI) if hasattr(one, "unspoken")]
    usage = whole.usage
    assert usage.completion_tokens_details.reasoning_tokens == run.costs["planner"].written


def test_rounds_that_a_rule_ends_are_streamed_as_they_are_answered(serve: Serve) -> None:
    said = iter(["no", "maybe", "I AGREE", "the end"] * 2)
    model: Any = scripted(lambda _: next(said)).answerer.model
    role = Role(template="{messages}{question}", chat=False)
    agents = [Agent(name, model, role=role) for name in ("writer", "critic")]
    edges = [Edge("writer", "critic", TextChannel()), Edge("critic", "writer", TextChannel())]
    rule = Phrase("AGREE", agent="writer")
    running = serve(Pipeline(agents, edges, rounds=3, until=rule, answer="critic"))
    whole = running.chat(HI).choices[0].message.content
    assert whole == text(running.pieces(HI)) == "the end"


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_failure_after_the_first_words_is_raised_by_the_client(serve: Serve) -> None:
    model = Paced("abcdef")
    model.allow(2)
    running = serve(solver(model))
    pieces: list[Any] = []
    with running.client() as client:
        stream = client.chat.completions.create(**body(HI, stream=True))
        while text(pieces) != "ab":
            pieces.append(next(stream))
        model.broken = RuntimeError("the secret of the server")
        model.allow()
        with pytest.raises(openai.APIError, match="failed"):
            list(stream)
    assert [one.choices[0].finish_reason for one in pieces] == [None] * len(pieces)
    assert running.service.workers.running == 0


def test_a_turn_that_takes_too_long_is_refused(serve: Serve) -> None:
    model = long_model()
    running = serve(solver(model, tokens=4000), seconds=1e-9)
    response = running.post(body(HI))
    assert response.status_code == 504
    assert response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="limit"):
        running.pieces(HI)
    assert model.scheduler.idle(60)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_stops_the_work(serve: Serve, stream: bool) -> None:
    model = Paced("abcdef" * 1000)
    running = serve(solver(model))
    with closing(asked(running, body(HI, stream=stream))) as client:
        model.asked.acquire()
        model.allow(2)
        if stream:
            while b'"b"' not in client.recv(1 << 16):
                pass
    assert model.ended.wait(60)
    assert model.finish == "cancelled"
    assert model.written <= 2


def asked(running: Running, content: Any, key: str = "none") -> socket.socket:
    """A client that has sent its request."""
    data = json.dumps(content).encode()
    client = socket.create_connection(("127.0.0.1", running.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
    head += f"\r\nAuthorization: Bearer {key}"
    client.sendall(head.encode() + b"\r\n\r\n" + data)
    return client


def test_who_goes_away_while_waiting_never_begins(serve: Serve) -> None:
    model = Paced("abc")
    running = serve(solver(model), running=1)
    with closing(asked(running, body(HI))):
        model.asked.acquire()
        waiting = asked(running, body(HI))
        until(running, "waiting", 1)
        waiting.close()
        until(running, "waiting", 0)
        assert running.service.workers.running == 1
        model.allow()
    assert model.ended.wait(60)
    assert not model.asked.acquire(blocking=False)


def until(running: Running, what: str, count: int) -> None:
    """Wait until a number of the server is that, and ask it in between."""
    while getattr(running.service.workers, what) != count:
        running.get("/health")


def test_neighbours_write_the_same_words_when_one_goes_away(serve: Serve) -> None:
    model = long_model()
    running = serve(solver(model, tokens=400))
    alone = running.chat(("user", "Who keeps a parrot?")).choices[0].message.content
    with closing(asked(running, body(HI, stream=True, max_tokens=4000))) as other:
        while b'"content": "' not in other.recv(1 << 16):
            pass
        with running.client() as client:
            stream = client.chat.completions.create(
                **body(("user", "Who keeps a parrot?"), stream=True)
            )
            first = next(stream)
            other.close()
            assert text([first, *stream]) == alone
    assert model.scheduler.idle(60)
    assert model.scheduler.state().written < 4000


def test_behind_a_middleware_who_goes_away_stops_the_work_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def passes(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def wrapped(service: Service) -> Any:
        return BaseHTTPMiddleware(make_app(service), dispatch=passes)

    monkeypatch.setattr(server, "make_app", wrapped)
    model = Paced("abcdef" * 1000)
    running = serve(solver(model))
    with closing(asked(running, body(HI, stream=True))):
        model.asked.acquire()
    assert model.ended.wait(60)
    assert model.finish == "cancelled"


def test_a_reader_who_takes_nothing_ends_alone(serve: Serve) -> None:
    model = Paced("x" * 200_000)
    running = serve({"slow": solver(model), "solver": scripted("yes")}, stall=0.05)
    model.allow(200_000)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", running.port))
    data = json.dumps({**body(HI, stream=True), "model": "slow"}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
    with closing(client):
        client.sendall(head.encode() + b"\r\n\r\n" + data)
        model.asked.acquire()
        assert running.chat(HI).choices[0].message.content == "yes"
        assert model.ended.wait(60)
    assert model.finish in ("cancelled", "failed")
    assert model.written < 200_000


def test_only_so_many_bytes_wait_for_a_reader() -> None:
    async def told() -> None:
        job = Job[str](1000)
        for _ in range(10):
            job.tell("x", 100)
        assert not job.over.is_set()
        with pytest.raises(Refusal, match="read faster"):
            job.tell("x", 1)
        assert job.over.is_set()

    asyncio.run(told())


def test_what_is_read_makes_room_for_more() -> None:
    async def told() -> None:
        job = Job[str](1000)
        for _ in range(100):
            job.tell("x", 100)
            assert await job.get() == "x"
        job.end(None)
        assert await job.get() is None
        assert await job.get() is None

    asyncio.run(told())
