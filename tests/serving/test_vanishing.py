"""Five hundred clients, of whom most go away at a random moment: nothing of them is left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from threading import enumerate as threads

import httpx

from tests.serving.conftest import Running, Serve, body
from tests.serving.models import long_model, solver

CLIENTS, AT_ONCE, TOKENS = 500, 24, 24


async def come_and_go(running: Running, draw: random.Random) -> list[str]:
    """How each of them ended: with an answer, refused, or gone."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        base_url=running.url, verify=False, timeout=120, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def ask(number: int, pieces: float) -> str:
            asked = body(("user", f"What does {number} keep?"), stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
                if response.status_code == 429:
                    return "refused"
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    assert '"error"' not in line
                    pieces -= line.startswith("data: ")
                    if pieces < 0:
                        return "gone"
            return "answered"

        async def one(number: int) -> str:
            async with slots:
                pieces = draw.choice([0, draw.randrange(8), 1000])
                task = asyncio.create_task(ask(number, pieces))
                if draw.random() < 0.3:
                    await asyncio.wait([task], timeout=draw.random() / 10)
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    return await task
                return "gone"

        return list(await asyncio.gather(*map(one, range(CLIENTS))))


def test_nothing_is_left_of_clients_who_vanish(serve: Serve) -> None:
    model = long_model()
    running = serve(solver(model, TOKENS), running=8, waiting=24, waiting_each=24, cache=1 << 20)
    hi = ("user", "hi")
    before = running.chat(hi).choices[0].message.content
    ends = asyncio.run(come_and_go(running, random.Random(0)))
    gone, answered = ends.count("gone"), ends.count("answered")
    assert len(ends) == CLIENTS
    assert min(gone, answered) > CLIENTS / 10
    workers = running.service.workers
    while not workers.idle:
        running.get("/health")
    assert model.scheduler.idle(30)
    assert (workers.waiting, workers.running) == (0, 0)
    assert running.get("/health").json() == {"status": "ok"}
    assert model.turns._free == model.turns.places
    assert not [one for one in threads() if one.name.startswith("scheduler of")]
    pool = running.service.pools["local"]
    pool.check()
    assert running.chat(hi).choices[0].message.content == before
