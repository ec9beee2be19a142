"""Agents as Ray actors, on this machine or on a cluster; messages go through its object store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from unspoken.agents import Agent, Edge
from unspoken.errors import MissingExtra, PipelineError, WorkerError, WorkerTimeout
from unspoken.executors.base import Make, check_limits
from unspoken.executors.host import Host, pack
from unspoken.executors.remote import RemoteAgent
from unspoken.executors.talk import REPLY, Answer, Describe, Piece, Request, TakeTurn, TurnDone
from unspoken.types import OnText

__all__ = ["RayActors"]


@dataclass(frozen=True, slots=True)
class RayActors:
    """Every agent is a Ray actor. Messages stay in Ray's object store until they are read.

    The Ray that this program is connected to is used. If there is none, one is started on this
    machine, and ended with the pipeline. timeout: seconds for a turn. start: seconds until an agent
    is made. limit: bytes of the largest message. options: of each actor, such as `num_gpus`. An
    answer is passed on in one piece when it is whole.

    >>> RayActors(timeout=20, options={"num_gpus": 1}).timeout
    20
    """

    timeout: float = 300.0
    start: float = 600.0
    limit: int = 8 << 30
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_limits(self.timeout, self.start, self.limit)

    def place(
        self, agents: Sequence[Agent | Make], edges: Sequence[Edge], opened: ExitStack
    ) -> list[RemoteAgent]:
        ray = _ray()
        packed = [pack(agent, edges, ray.cloudpickle.dumps) for agent in agents]
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no statistics
            ray.init(include_dashboard=False, log_to_driver=False)
            opened.callback(ray.shutdown)
        workers = [_Worker(self, f"agent number {n}", one) for n, one in enumerate(packed, 1)]
        for worker in workers:
            opened.callback(worker.close)
            worker.start()  # all at once; each is waited for below
        return [RemoteAgent(worker, edges) for worker in workers]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            "Ray is not installed; install it with: pip install 'unspoken[ray]', or use the "
            "executor Processes, which needs nothing more"
        ) from error
    return ray


class _Actor:
    """A `Host` as an actor: the reply, and after it its messages as arrays of bytes."""

    def __init__(self, *settings: Any) -> None:
        self.host = Host(*settings)

    def answer(self, request: bytes, count: int, *messages: Any) -> Any:
        import numpy as np

        reply, sent = self.host.answer(request, messages, lambda row, words: None)
        arrays = [
            np.frombuffer(data, np.uint8) for data in sent
        ]  # are shared, where bytes are copied
        arrays += [None] * (count - len(arrays))
        return [reply, *arrays] if count else reply


class _Worker:
    """An actor and its time limits."""

    def __init__(self, settings: RayActors, who: str, packed: bytes) -> None:
        self.who, self._settings, self._packed = who, settings, packed
        self._actor: Any = None
        self._closed = False

    @property
    def running(self) -> bool:
        return self._actor is not None

    def start(self) -> None:
        settings = self._settings
        actor = _ray().remote(_Actor).options(**settings.options)
        self._actor = actor.remote(self._packed, settings.limit, torch.get_num_threads())

    def ask(
        self,
        request: Request,
        messages: Sequence[Any] = (),
        on_text: OnText | None = None,
    ) -> tuple[Answer, list[Any]]:
        """See `Worker`. At the time limit the actor is killed."""
        if self._closed:
            raise PipelineError(f"{self.who} was closed with its pipeline; make a new pipeline")
        try:
            if not self.running:
                self.start()
            reply, sent = self._asked(request, messages)
        except BaseException:  # Ctrl-C too
            self.end()
            raise
        if on_text is not None and isinstance(reply, TurnDone):
            for n, words in enumerate(reply.text or ()):
                on_text(n, words)
        return reply, sent

    def _asked(self, request: Request, messages: Sequence[Any]) -> tuple[Answer, list[Any]]:
        ray, limits = _ray(), self._settings
        asks = isinstance(request, Describe)
        seconds, name = (limits.start, "start") if asks else (limits.timeout, "timeout")
        count = request.sends if isinstance(request, TakeTurn) else 0
        call = self._actor.answer.options(num_returns=1 + count)
        found = call.remote(request.to_bytes(), count, *messages)
        head, *sent = found if count else [found]
        try:
            reply = REPLY.validate_json(ray.get(head, timeout=seconds))
        except ray.exceptions.GetTimeoutError as error:
            raise WorkerTimeout(
                f"{self.who} did not answer within {seconds:g} s, and its actor was ended; give it "
                f"more time with {name}=..., or find out why it hangs. {_AGAIN}"
            ) from error
        except ray.exceptions.RayError as error:
            raise WorkerError(f"the actor of {self.who} was lost: {error}. {_AGAIN}") from error
        assert not isinstance(reply, Piece)
        return reply, sent

    def end(self) -> None:
        """Kill the actor, if there is one."""
        actor, self._actor = self._actor, None
        if actor is not None:
            _ray().kill(actor)

    def close(self) -> None:
        self._closed = True
        self.end()


_AGAIN = "What it had sent of this turn is dropped; run again, and it is started again"
