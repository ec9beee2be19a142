"""What a server does with a request: it checks it, and lets a pipeline answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, time
from typing import Any
from uuid import uuid4

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from unspoken.anchors import AnchorPool
from unspoken.protocols import unwrapped
from unspoken.scheduling import SchedulerState
from unspoken.serving.answering import Asked, Changes, ServedPipeline, Told
from unspoken.serving.bounds import Bounds
from unspoken.serving.guard import Guard
from unspoken.serving.metrics import Metrics
from unspoken.serving.pages import Pages
from unspoken.serving.pools import load_pools
from unspoken.serving.protocol import ChatRequest, CompletionRequest, parsed
from unspoken.serving.protocol import Request as Body
from unspoken.serving.refusals import Refusal
from unspoken.serving.replies import ChatReply, CompletionReply, encoded
from unspoken.serving.responding import Exchange, json_response, refuse
from unspoken.serving.visible import Visible, visible
from unspoken.serving.workers import Job, Workers

__all__ = ["Service"]


class Service:
    """What the paths share: pipelines by name, who may ask, threads, and a pool for each user.

    draining: whether only what was begun is answered. folder: what an earlier server had read, if
    it is there.
    """

    def __init__(
        self,
        served: Mapping[str, ServedPipeline],
        guard: Guard,
        bounds: Bounds = Bounds(),
        *,
        folder: Path | None = None,
    ) -> None:
        self.served, self.guard, self.bounds = dict(served), guard, bounds
        self.workers, self.draining, self.created = Workers(bounds), False, int(time())
        self.pages = Pages()
        self._receiving = 0  # bodies that are being read
        self.pools = load_pools(guard.owners, bounds.cache, folder)
        self.schedulers = _schedulers(served)
        self._stuck: dict[str, tuple[int, float]] = {name: (-1, inf) for name in self.schedulers}
        self.metrics = Metrics(
            list(self.served),
            self.schedulers,
            lambda: self.workers.waiting,
            lambda: self.workers.running,
        )

    def model(self, name: str) -> ServedPipeline:
        """A pipeline by name. Raises `Refusal`."""
        if name not in self.served:
            raise Refusal(
                404,
                f"there is no model {name[:100]!r}; GET /v1/models lists those that there are",
                param="model",
                code="model_not_found",
            )
        return self.served[name]

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a chat."""
        owner, begun, body = await self._received(request)
        asked = parsed(ChatRequest, body)
        if len(asked.messages) > self.bounds.messages:
            raise Refusal(
                400,
                f"{len(asked.messages):,} messages are given, and at most "
                f"{self.bounds.messages:,} are read; leave the oldest out",
                param="messages",
            )
        asked.check()
        reply = ChatReply(f"chatcmpl-{uuid4().hex}", int(time()), asked.model)
        return await self._answered(request, owner, begun, asked, visible(asked.messages), reply)

    async def complete(self, request: Request) -> Response:
        """Answer a prompt, which is a question without earlier turns."""
        owner, begun, body = await self._received(request)
        asked = parsed(CompletionRequest, body)
        asked.check()
        reply = CompletionReply(f"cmpl-{uuid4().hex}", int(time()), asked.model)
        talk = Visible("", (), asked.question)
        return await self._answered(request, owner, begun, asked, talk, reply)

    async def list_models(self, request: Request) -> Response:
        """All pipelines by name."""
        self.guard.owner(request.headers)
        data = [self._described(name) for name in self.served]
        return json_response({"object": "list", "data": data})

    async def show_model(self, request: Request, name: str) -> Response:
        """One of them."""
        self.guard.owner(request.headers)
        self.model(name)
        return json_response(self._described(name))

    async def page(self, request: Request, name: str = "index.html") -> Response:
        """The page that shows agents at work, and its files. There is nothing secret in them."""
        self.guard.check_place(request.headers)
        return self.pages.response(name)

    async def count(self, request: Request) -> Response:
        """What was counted, for Prometheus."""
        self.guard.owner(request.headers)
        return Response(self.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def health(self) -> Response:
        """Whether it works at all. Who may not ask anything else may ask this."""
        alive = self._moves()
        return json_response({"status": "ok" if alive else "stuck"}, 200 if alive else 503)

    async def ready(self) -> Response:
        """Whether it takes new requests."""
        ready = self._moves() and not self.draining
        return json_response({"status": "ready" if ready else "ending"}, 200 if ready else 503)

    def _moves(self) -> bool:
        """Whether no batch stands still, with rows in it, for as long as a turn may take."""
        for name, state in self.schedulers.items():
            now, (steps, since) = state(), self._stuck[name]
            stands = now.steps == steps and (now.waiting or now.running)
            self._stuck[name] = now.steps, min(since, monotonic()) if stands else inf
        return all(monotonic() - since < self.bounds.seconds for _, since in self._stuck.values())

    def _described(self, name: str) -> dict[str, Any]:
        made = {"created": self.created, "owned_by": "unspoken"}
        return {"id": name, "object": "model", **made, "unspoken": self.served[name].described}

    async def _received(self, request: Request) -> tuple[str, float, bytes]:
        """Who asks, when, and the body. Raises `Refusal`."""
        begun, owner = monotonic(), self.guard.owner(request.headers)
        if self.draining:
            raise Refusal.ending()
        if self._receiving >= self.bounds.running + self.bounds.waiting:
            raise Refusal.busy(f"{self._receiving} requests are on their way; ask later", 1)
        self._receiving += 1
        try:
            return owner, begun, await _body(request, self.bounds)
        finally:
            self._receiving -= 1

    async def _answered(
        self,
        request: Request,
        owner: str,
        begun: float,
        body: Body,
        talk: Visible,
        reply: ChatReply | CompletionReply,
    ) -> Response:
        served, most = self.model(body.model), self.bounds.max_tokens
        if (body.most or 0) > most:
            raise Refusal(
                400, f"an answer may have {most} tokens, not {body.most}", param="max_tokens"
            )
        served.check(talk)
        shows = bool(body.unspoken)
        asked = Asked(talk, Changes.of(body), body.fields, shows=shows, reads=body.readings)
        job = self.workers.start(owner, partial(_work, served, asked, self.pools[owner], owner))
        exchange = Exchange(job, reply, self.metrics, request.receive, begun)
        try:
            if body.stream:
                return await exchange.streamed(self.bounds, usage=body.wants_usage)
            return await exchange.whole()
        except Exception as error:
            return refuse(error)


def _work(
    served: ServedPipeline, asked: Asked, pool: AnchorPool, owner: str, job: Job[Told]
) -> None:
    served.answer(asked, pool, owner, lambda told: job.tell(told, _size(told)))


def _size(told: Told) -> int:
    """About how many bytes a reader is sent for it."""
    return 256 + (len(encoded(told)) if isinstance(told, str | dict) else 0)


def _schedulers(
    served: Mapping[str, ServedPipeline],
) -> dict[str, Callable[[], SchedulerState]]:
    """What the batch of each model does, by the model's name and precision, if it has one."""
    agents = [agent for one in served.values() for agent in one.agents.values()]
    models = {f"{one.spec.name}, {one.spec.dtype}": unwrapped(one.model) for one in agents}
    found = {name: getattr(model, "scheduler", None) for name, model in models.items()}
    return {name: one.state for name, one in found.items() if one is not None}


async def _body(request: Request, bounds: Bounds) -> bytes:
    """The body of a request. Raises `Refusal` for one that is too long, or comes too slowly."""
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(bounds.upload):
            async for part in request.stream():
                size += len(part)
                if size <= bounds.body:
                    parts.append(part)
                elif size > 16 * bounds.body:  # up to there it is read, so that it gets an answer
                    break
    except TimeoutError as error:
        raise Refusal(
            408, f"the request was not there after {bounds.upload:g} seconds; send it faster"
        ) from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client went away before its request was there") from error
    if size > bounds.body:
        raise Refusal(
            413, f"the request has more than {bounds.body:,} bytes; shorten it", code="too_large"
        )
    return b"".join(parts)
