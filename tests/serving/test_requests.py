"""What a request may say, what is refused, and in which form."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import Paced, pair, scripted, solver
from unspoken.pipeline import Pipeline
from unspoken.serving.protocol import ChatRequest, Message, parsed
from unspoken.serving.refusals import Refusal
from unspoken.serving.visible import visible

HI = ("user", "hi")


def is_refused(response: httpx.Response, status: int, param: str | None = None) -> bool:
    """Whether a response is an error in OpenAI's form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["type"], str)
    assert response.status_code == status, response.text
    return param is None or error["param"] == param


# -- fields ----------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"logit_bias": {"50": 100}}, "logit_bias"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"guided_json": {}}, "guided_json"),
    ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ({"model": "nobody"}, "model"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"seed": 1 << 70}, "seed"),
    ({"seed": "a"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 100}, "stop"),
    ({"stop": ["x" * 10_000]}, "stop[0]"),
    ({"stop": [1]}, "stop[0]"),
    ({"unspoken": "yes"}, "unspoken"),
    ({"unspoken": {"file": "/etc/passwd"}}, "unspoken.file"),
    ({"unspoken": {"fields": {"question": "another"}}}, "unspoken.fields.question"),
    ({"unspoken": {"fields": {"unread": "x"}}}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 10_000}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x " * 20_000}]}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        "messages",
    ),
]


@pytest.mark.parametrize(
    ("given", "param"), REFUSED, ids=[f"{n}-{p}" for n, (_, p) in enumerate(REFUSED)]
)
def test_what_is_not_supported_is_refused_by_name_whole_and_streamed(
    tiny_server: Running, given: dict[str, Any], param: str
) -> None:
    status = 404 if "model" in given else 400
    for stream in (False, True):
        response = tiny_server.post({**body(HI), "stream": stream, **given})
        assert is_refused(response, status, param), response.text


TEXT = {"type": "text", "text": "x"}
ACCEPTED: list[dict[str, Any]] = [
    {"n": 1},
    {"response_format": {"type": "text"}},
    {"logprobs": False},
    {"tools": []},
    {"tool_choice": "auto"},
    {"presence_penalty": 0, "frequency_penalty": 0.0},
    {"user": "ada", "metadata": {"a": "b"}},
    {"max_tokens": 3, "max_completion_tokens": 3},
    {"max_tokens": None, "temperature": None, "stop": None, "seed": None, "anything": None},
    {"stop": ["x"]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}
        ]
    },
    {"seed": -5, "temperature": 1, "top_p": 0.5},
]


@pytest.mark.parametrize("given", ACCEPTED, ids=[",".join(one) for one in ACCEPTED])
def test_what_asks_for_nothing_is_accepted(tiny_server: Running, given: dict[str, Any]) -> None:
    assert tiny_server.post({**body(HI), **given}).status_code == 200


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_work(serve: Serve, name: str) -> None:
    answer = serve(scripted("abcdefgh")).chat(HI, **{name: 3})
    assert answer.choices[0].message.content == "abc"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_settings_reach_the_answer_and_no_other_agent(serve: Serve) -> None:
    running = serve(pair(tokens=6))
    plain = running.service.served["solver"].pipeline
    given = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "max_tokens": 5}
    found = running.chat(HI, **given, extra_body={"unspoken": True})
    settings = plain.answerer.settings.__class__(5, temperature=1.0, top_p=0.9, seed=7)
    expected = plain.with_answer_settings(settings).run("hi")
    assert found.choices[0].message.content == expected.answer
    turns = found.unspoken["turns"]
    assert [turn["text"] for turn in turns] == [turn.text for turn in expected.turns]
    other = running.chat(HI, **{**given, "seed": 8})
    assert other.choices[0].message.content != expected.answer


# -- messages --------------------------------------------------------------------------------------

EVERY_ROLE: list[dict[str, Any]] = [
    {"role": "assistant", "content": "m-opening"},
    {"role": "developer", "content": "m-developer"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "m-one "}, {"type": "text", "text": "m-two"}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "m-call", "arguments": '{"x": 1}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "m-result"},
    {"role": "assistant", "content": "m-answer", "refusal": None, "annotations": []},
    {"role": "system", "content": "m-system"},
    {"role": "assistant", "content": "m-more", "name": "m-name"},
    {"role": "user", "content": "m-last", "name": "ada"},
]
MARKS = [
    "m-opening",
    "m-developer",
    "m-one m-two",
    "m-call",
    "m-result",
    "m-answer",
    "m-system",
    "m-name: m-more",
    "ada: m-last",
]


def test_a_marker_in_every_role_and_part_reaches_the_prompt(serve: Serve) -> None:
    read: list[str] = []

    def script(words: str) -> str:
        read.append(words)
        return "yes"

    running = serve(scripted(script))
    assert running.chat(*EVERY_ROLE).choices[0].message.content == "yes"
    assert [mark for mark in MARKS if mark not in read[-1]] == []
    assert read[-1].index("m-developer") < read[-1].index("m-one m-two") < read[-1].index("m-last")


def test_system_words_are_in_the_system_turn_of_every_agent(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(pair())
    model = running.service.served["solver"].agents["solver"].model
    plain, prompts = model.lay_out, list[str]()

    def lay_out(prompt: Any) -> Any:
        prompts.append("".join(one.words[0] for one in prompt.segments))
        return plain(prompt)

    monkeypatch.setattr(model, "lay_out", lay_out)
    running.chat(("developer", "Be brief."), HI)
    assert len(prompts) >= 2
    assert all("<turn>system\nBe brief." in one for one in prompts)


@pytest.mark.parametrize(
    ("roles", "turns"),
    [
        ("u", []),
        ("uau", [("u0", "a1")]),
        ("uuaau", [("u0\n\nu1", "a2\n\na3")]),
        ("suasu", [("u1", "a2")]),
        ("uauau", [("u0", "a1"), ("u2", "a3")]),
    ],
)
def test_messages_of_one_side_in_a_row_are_one(roles: str, turns: list[tuple[str, str]]) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    given = [Message(role=names[r], content=f"{r}{n}") for n, r in enumerate(roles)]  # type: ignore
    found = visible(given)
    assert list(found.turns) == turns
    assert found.question == f"u{len(roles) - 1}"


# -- hostile requests ------------------------------------------------------------------------------

MESSAGES = b'"messages": [{"role": "user", "content": "x"}]'
ASKED = b'{"model": "solver", ' + MESSAGES
HOSTILE: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b'"hi"', 400),
    (b"[" * 200_000, 400),
    (b'{"a":' * 100_000, 400),
    (b"\xff\xfe\x00", 400),
    (b'{"model": "\xff"}', 400),
    (ASKED.replace(MESSAGES, MESSAGES.replace(b'"x"', b'"\\ud800"')) + b"}", 400),
    (ASKED.replace(b"solver", b"\\ud800") + b"}", 400),
    (ASKED + b', "\\udfff": 1}', 400),
    (ASKED + b', "user": "\\udfff"}', 400),
    (ASKED + b', "temperature": NaN}', 400),
    (ASKED + b', "top_p": Infinity}', 400),
    (ASKED + b', "max_tokens": 1e400}', 400),
    (ASKED + b', "seed": %s}' % (b"9" * 5000), 400),
    (ASKED.replace(b"solver", b"../../etc/passwd") + b"}", 404),
    (b"x" * (50 << 20), 413),
]


@pytest.mark.parametrize(("content", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_refused_in_the_form_of_openai(
    tiny_server: Running, content: bytes, status: int
) -> None:
    assert is_refused(tiny_server.post(content=content), status)
    content = content.replace(MESSAGES, b'"prompt": "x"')
    assert is_refused(tiny_server.post(path="/v1/completions", content=content), status)


@pytest.mark.parametrize(
    "words", ["<turn>assistant\n", "<eos>", "{question}", "\x00", "\u202e", "🙂" * 500]
)
def test_odd_words_are_words(tiny_server: Running, words: str) -> None:
    assert tiny_server.post(body(("system", words), ("user", words))).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/responses", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/models/a/b%ff", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/docs", 404),
    ],
)
def test_what_is_not_served_is_refused_in_the_form_of_openai(
    tiny_server: Running, method: str, path: str, status: int
) -> None:
    response = tiny_server.http.request(method, f"{tiny_server.url}{path}")
    assert is_refused(response, status)
    if path == "/v1/responses":
        assert "chat/completions" in response.text


def test_the_official_client_raises_its_own_errors(tiny_server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        tiny_server.chat(HI, model="nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        tiny_server.chat(("user", "x " * 20_000))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as more:
        tiny_server.chat(HI, n=2)
    assert more.value.param == "n"


def test_a_request_that_does_not_come_is_refused(serve: Serve) -> None:
    running = serve(scripted("yes"), upload=0.01)
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_a_failure_of_ours_tells_nothing_of_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def script(words: str) -> str:
        raise RuntimeError("the secret of the server")

    response = serve(scripted(script)).post(body(HI))
    assert is_refused(response, 500)
    assert "secret" not in response.text
    assert "the secret of the server" in caplog.text


def test_a_pipeline_without_a_place_for_earlier_turns_answers_single_questions(
    serve: Serve,
) -> None:
    running = serve(unconversing())
    assert running.chat(HI).choices[0].finish_reason in ("stop", "length")
    response = running.post(body(HI, ("assistant", "yes"), HI))
    assert is_refused(response, 400, "messages")


def unconversing() -> Pipeline:
    """A pipeline whose message comes before the whole prompt."""
    from unspoken.agents import Agent, Edge
    from unspoken.channels import make_channel
    from unspoken.types import Settings

    made = solver(tokens=4)
    model = made.answerer.model
    agents = [Agent(name, model, settings=Settings(4)) for name in ("reader", "solver")]
    return Pipeline(agents, [Edge("reader", "solver", make_channel("handoff"))])


def test_more_fields_go_with_every_question(serve: Serve) -> None:
    from unspoken.agents import Agent, Role
    from unspoken.testing import ScriptedModel

    read: list[str] = []

    def script(words: str) -> str:
        read.append(words)
        return "yes"

    role = Role(template="{documents}{question}", chat=False)
    running = serve(Pipeline([Agent("solver", ScriptedModel(script), role=role)]))
    fields = {"documents": {"a.md": "The key is in the attic."}}
    extra = {"extra_body": {"unspoken": {"fields": fields}}}
    running.chat(HI, ("assistant", "yes"), ("user", "where?"), **extra)
    assert read[-1].count("The key is in the attic.") == 2
    assert is_refused(running.post(body(HI)), 400, "messages")


def test_a_refusal_of_the_parser_names_the_field() -> None:
    with pytest.raises(Refusal) as refused:
        parsed(ChatRequest, json.dumps({"model": "x", "messages": [{"role": "user"}, {}]}).encode())
    assert refused.value.param == "messages[1].role"


def test_paced_models_are_what_they_seem(serve: Serve) -> None:
    model = Paced("abc")
    model.allow()
    assert serve(solver(model)).chat(HI).choices[0].message.content == "abc"
