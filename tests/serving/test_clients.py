"""The official client, LangGraph and smolagents, asking a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from smolagents import OpenAIModel

from tests.serving.conftest import Running, Serve
from tests.serving.models import pair, scripted

QUESTION = ("user", "Where is the key?")
SHOWN = {"extra_body": {"unspoken": True}}


def test_the_official_client_gets_what_the_pipeline_answers(tiny_server: Running) -> None:
    run = tiny_server.service.served["solver"].pipeline.run(QUESTION[1])
    whole = tiny_server.chat(QUESTION)
    assert whole.choices[0].message.content == run.answer
    assert whole.choices[0].finish_reason == run.finish
    assert whole.usage.prompt_tokens == run.usage.read
    assert whole.usage.completion_tokens == run.usage.written
    pieces = tiny_server.pieces(QUESTION)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == run.answer
    with tiny_server.client() as client:
        assert [one.id for one in client.models.list()] == ["solver"]
        assert client.models.retrieve("solver").id == "solver"
        completed = client.completions.create(model="solver", prompt=QUESTION[1])
        assert completed.choices[0].text == run.answer
        assert completed.usage is not None
        assert completed.usage.total_tokens == whole.usage.total_tokens
        streamed = client.completions.create(model="solver", prompt=QUESTION[1], stream=True)
        assert "".join(one.choices[0].text for one in streamed) == run.answer


async def _asked(running: Running) -> tuple[str, str]:
    given = {"base_url": f"{running.url}/v1", "api_key": running.key, "max_retries": 0}
    async with openai.AsyncOpenAI(**given) as client:
        asked: Any = {"model": "solver", "messages": [{"role": "user", "content": QUESTION[1]}]}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        pieces = [one.choices[0].delta.content or "" async for one in stream]
        return whole.choices[0].message.content or "", "".join(pieces)


def test_the_async_client_gets_the_same(tiny_server: Running) -> None:
    whole, streamed = asyncio.run(_asked(tiny_server))
    assert whole == streamed == tiny_server.chat(QUESTION).choices[0].message.content


def langchain(running: Running, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="solver", base_url=f"{running.url}/v1", api_key="none", max_retries=0, **more
    )


def test_a_graph_talks_to_a_pipeline(serve: Serve) -> None:
    running = serve(pair(tokens=12))
    model = langchain(running)
    graph = StateGraph(MessagesState)
    graph.add_node("team", lambda state: {"messages": model.invoke(state["messages"])})
    graph.add_edge(START, "team")
    talk = graph.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    for question in ("Where is the key?", "And who has it?"):
        found = talk.invoke({"messages": [("user", question)]}, thread)
    said = [one.content for one in found["messages"]]
    (first,) = [running.chat(QUESTION)]
    assert said[1] == first.choices[0].message.content
    again = running.chat(QUESTION, ("assistant", said[1]), ("user", "And who has it?"))
    assert said[3] == again.choices[0].message.content
    usage = found["messages"][-1].usage_metadata
    assert usage["input_tokens"] == again.usage.prompt_tokens
    assert usage["input_token_details"]["cache_read"] > 0


def test_langchain_streams_and_passes_over_what_is_shown(serve: Serve) -> None:
    running = serve(pair(tokens=12))
    expected = running.chat(QUESTION).choices[0].message.content
    for more in ({}, SHOWN, {"stream_usage": True, **SHOWN}):
        pieces = list(langchain(running, **more).stream([QUESTION]))
        assert "".join(str(one.content) for one in pieces) == expected

    async def pieces_of() -> list[Any]:
        return [one async for one in langchain(running, **SHOWN).astream([QUESTION])]

    assert "".join(str(one.content) for one in asyncio.run(pieces_of())) == expected


def test_langchain_messages_of_all_kinds_are_read(serve: Serve) -> None:
    read: list[str] = []

    def script(words: str) -> str:
        read.append(words)
        return "yes"

    calls: Any = [{"name": "m-find", "args": {"what": "m-what"}, "id": "c1", "type": "tool_call"}]
    chat = [
        SystemMessage("m-system"),
        HumanMessage("m-human", name="m-ada"),
        AIMessage("", tool_calls=calls),
        ToolMessage("m-tool", tool_call_id="c1"),
        AIMessage("m-answer"),
        HumanMessage([{"type": "text", "text": "m-last"}]),
    ]
    langchain(serve(scripted(script))).invoke(chat)
    marks = "m-system m-human m-ada m-find m-what m-tool m-answer m-last".split()  # noqa: SIM905
    assert [mark for mark in marks if mark not in read[-1]] == []


def test_smolagents_ask_a_pipeline(serve: Serve) -> None:
    running = serve(pair(tokens=12))
    expected = running.chat(QUESTION).choices[0].message.content
    model = OpenAIModel("solver", api_base=f"{running.url}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION[1]}]}]
    answer = model.generate(messages, stop_sequences=["never written"])
    assert answer.content == expected
    assert answer.token_usage.input_tokens > 0
    for more in ({}, SHOWN):
        pieces = list(model.generate_stream(messages, **more))
        assert "".join(one.content or "" for one in pieces) == expected


@pytest.mark.parametrize("given", [{"n": 2}, {"logprobs": True}])
def test_clients_say_what_was_refused(tiny_server: Running, given: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(given))):
        langchain(tiny_server, **given).invoke([QUESTION])
