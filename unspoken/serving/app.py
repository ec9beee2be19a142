"""The server as an ASGI application: its paths."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unspoken.serving.refusals import Refusal
from unspoken.serving.responding import refuse
from unspoken.serving.service import Service

__all__ = ["make_app"]


def make_app(service: Service) -> FastAPI:
    """The application of a service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await service.workers.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(_Counting, service)
    for kind in (Exception, Refusal):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(HTTPException, _refused_by_path)
    app.add_api_route("/v1/chat/completions", service.chat, methods=["POST"])
    app.add_api_route("/v1/completions", service.complete, methods=["POST"])
    app.add_api_route("/v1/models", service.list_models)
    app.add_api_route("/v1/models/{name:path}", service.show_model)
    app.add_api_route("/v1/runs", service.list_runs)
    app.add_api_route("/v1/runs/{name}", service.follow)
    app.add_api_route("/", service.page)
    app.add_api_route("/page/{name}", service.page)
    app.add_api_route("/metrics", service.count)
    app.add_api_route("/health", service.health)
    app.add_api_route("/ready", service.ready)
    return app


async def _refused(_: Request, error: Exception) -> Response:
    return refuse(error)


async def _refused_by_path(request: Request, error: Exception) -> Response:
    """A path that there is not, or a method that it does not take."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:100], request.method
    told = f"{method} {path}: {error.detail}. Ask /v1/chat/completions, /v1/completions, /v1/models"
    if path.rstrip("/") == "/v1/responses":
        told = "responses are not served here; ask /v1/chat/completions, which has all of a chat"
    return refuse(Refusal(error.status_code, told, code="unknown_url", headers=error.headers))


class _Counting:
    """Counts requests by path and status."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.service.metrics.request(scope["path"], message["status"])
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)
