"""A real server on loopback, with pipelines that a test makes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest

from tests.serving.models import solver
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds, Guard, ServedPipeline, Server, Service
from unspoken.serving.server import listener


@dataclass(frozen=True)
class Running:
    """A server and how it is reached."""

    service: Service
    server: Server
    port: int
    key: str = "no key is needed"
    http: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False, timeout=60))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> openai.OpenAI:
        given = {"base_url": f"{self.url}/v1", "api_key": self.key, "max_retries": 0, **more}
        plain = openai.DefaultHttpxClient(verify=False)  # certificates take long to load
        return openai.OpenAI(http_client=plain, **given)

    def chat(self, *messages: tuple[str, Any] | dict[str, Any], **more: Any) -> Any:
        """A whole answer, by the official client."""
        with self.client() as client:
            return client.chat.completions.create(**body(*messages, **more))

    def pieces(self, *messages: tuple[str, Any] | dict[str, Any], **more: Any) -> list[Any]:
        """A streamed answer, by the official client."""
        with self.client() as client:
            return list(client.chat.completions.create(**body(*messages, stream=True, **more)))

    def post(self, json: Any = None, path: str = "/v1/chat/completions", **more: Any) -> Any:
        """A response to any body at all: `json`, or `content` as it is."""
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        return self.http.post(f"{self.url}{path}", headers=headers, json=json, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        return self.http.get(f"{self.url}{path}", headers=headers, **more)


def body(*messages: tuple[str, Any] | dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = [
        one if isinstance(one, dict) else {"role": one[0], "content": one[1]} for one in messages
    ]
    return {"model": "solver", "messages": listed, **more}


Serve = Callable[..., Running]


@contextmanager
def served(pipelines: dict[str, Any], keys: Sequence[str], bounds: Bounds) -> Iterator[Running]:
    made = {
        name: one if isinstance(one, ServedPipeline) else ServedPipeline(one)
        for name, one in pipelines.items()
    }
    service = Service(made, Guard(keys, "127.0.0.1"), bounds)
    with listener("127.0.0.1", 0, bounds.stall) as place:
        server = Server(service)
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()
        running = Running(service, server, place.getsockname()[1], *keys[:1])
        try:
            with running.http:
                yield running
        finally:
            service.draining = True
            thread.join(60)
            assert not thread.is_alive(), "the server did not end"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and ends them with the test."""
    with ExitStack() as open_:

        def start(
            pipeline: Pipeline | dict[str, Any] | None = None,
            keys: Sequence[str] = (),
            **bounds: Any,
        ) -> Running:
            pipeline = solver() if pipeline is None else pipeline
            given = pipeline if isinstance(pipeline, dict) else {"solver": pipeline}
            return open_.enter_context(served(given, keys, Bounds(**bounds)))

        yield start


@pytest.fixture(scope="module")
def tiny_server() -> Iterator[Running]:
    """One server of a tiny model for the tests of a module that change nothing of it."""
    with served({"solver": solver()}, (), Bounds()) as found:
        yield found
