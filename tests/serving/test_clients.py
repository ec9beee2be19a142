"""The official client, LangGraph and smolagents, asking a real server."""

from __future__ import annotations

import openai

from tests.serving.conftest import Running

QUESTION = ("user", "Where is the key?")


def test_the_official_client_gets_what_the_pipeline_answers(tiny_server: Running) -> None:
    pipeline = tiny_server.service.served["solver"].pipeline
    run = pipeline.run(QUESTION[1])
    whole = tiny_server.chat(QUESTION)
    assert whole.choices[0].message.content == run.answer
    assert whole.choices[0].finish_reason == run.finish
    assert whole.usage.prompt_tokens == run.usage.read
    assert whole.usage.completion_tokens == run.usage.written
    pieces = tiny_server.pieces(QUESTION)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == run.answer
    assert [one.choices[0].finish_reason for one in pieces][-1] == run.finish
    with tiny_server.client() as client:
        assert [one.id for one in client.models.list()] == ["solver"]
        assert client.models.retrieve("solver").id == "solver"
        completed = client.completions.create(model="solver", prompt=QUESTION[1])
        assert completed.choices[0].text == run.answer
        streamed = client.completions.create(model="solver", prompt=QUESTION[1], stream=True)
        assert "".join(one.choices[0].text for one in streamed) == run.answer


async def _asked(running: Running) -> tuple[str, str]:
    given = {"base_url": f"{running.url}/v1", "api_key": running.key, "max_retries": 0}
    async with openai.AsyncOpenAI(**given) as client:
        messages = [{"role": "user", "content": QUESTION[1]}]
        whole = await client.chat.completions.create(model="solver", messages=messages)
        stream = await client.chat.completions.create(
            model="solver", messages=messages, stream=True
        )
        pieces = [one.choices[0].delta.content or "" async for one in stream]
        return whole.choices[0].message.content or "", "".join(pieces)


def test_the_async_client_gets_the_same(tiny_server: Running) -> None:
    import asyncio

    whole, streamed = asyncio.run(_asked(tiny_server))
    assert whole == streamed == tiny_server.chat(QUESTION).choices[0].message.content
