"""uvicorn, which ends once all that was begun is answered."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from unspoken.serving.answering import ServedPipeline
from unspoken.serving.app import make_app
from unspoken.serving.bounds import Bounds
from unspoken.serving.guard import Guard
from unspoken.serving.pools import save_pools
from unspoken.serving.service import Service

__all__ = ["Server", "serve"]


class Server(uvicorn.Server):
    """Serves until a signal comes. Then `/ready` and new requests get 503, and others go on.

    It ends when all are answered. A second signal ends it after the passes in progress.
    """

    def __init__(self, service: Service) -> None:
        bounds = service.bounds
        super().__init__(
            uvicorn.Config(
                make_app(service),
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=int(bounds.seconds),
            )
        )
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            self.should_exit = self.force_exit = True
            self.service.workers.give_up()
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether it is time to end."""
        if self.service.draining and self.service.workers.idle:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(
    served: Mapping[str, ServedPipeline],
    *,
    keys: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    bounds: Bounds = Bounds(),
    folder: Path | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve pipelines by name until a signal comes. Raises `SettingsError`, see `Guard`.

    port: 0 for any that is free. folder: where what was read is kept when the server ends, and
    found when it begins. Raises `StorageError` if it cannot be. ready: gets the address once
    clients can connect.
    """
    service = Service(served, Guard(keys, host), bounds, folder=folder)
    with listener(host, port, bounds.stall) as place:
        at = f"[{host}]" if ":" in host else host
        ready(f"http://{at}:{place.getsockname()[1]}")
        Server(service).run([place])
    if folder is not None:
        save_pools(service.pools, folder)


def listener(host: str, port: int, stall: float) -> socket.socket:
    """A socket that listens. stall: seconds after which one who takes nothing is cut off."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.create_server((host, port), family=family, backlog=512)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; sockets of clients inherit it
        place.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * stall))
    return place
