"""The pipeline's side: an agent that takes its turns in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from threading import Lock
from typing import Any, Protocol, TypeVar

from unspoken.agents import Edge, TurnResult
from unspoken.agents.roles import Fields
from unspoken.cancelling import is_cancelled
from unspoken.errors import WorkerError
from unspoken.executors.talk import (
    Answer,
    CheckRoom,
    Describe,
    Description,
    Failed,
    Request,
    RoomChecked,
    TakeTurn,
    TurnDone,
)
from unspoken.types import FieldValue, OnText, Usage

__all__ = ["RemoteAgent", "Worker"]

T = TypeVar("T", Description, RoomChecked, TurnDone)


class Worker(Protocol):
    """A process or an actor with a `Host`, as the pipeline sees it.

    who: what errors call it. running: whether it runs; one that does not is started by `ask`.
    """

    who: str

    @property
    def running(self) -> bool: ...

    def ask(
        self,
        request: Request,
        messages: Sequence[Any] = (),
        on_text: OnText | None = None,
    ) -> tuple[Answer, list[Any]]:
        """The reply and its messages, which any worker of the same executor accepts.

        Before this raises an error it ends the worker, so that nothing is left half read.
        """
        ...

    def end(self) -> None:
        """End the worker at once, if it is there."""
        ...


class RemoteAgent:
    """A `Participant` whose model is in a worker. Only its name, role and spec are here.

    One turn at a time: other threads wait. Raises what the agent raises, `WorkerError` if the
    worker is lost or raises an error that is not of this package, and `WorkerTimeout`. A lost
    worker is started again when the agent is next asked.
    """

    def __init__(self, worker: Worker, edges: Sequence[Edge]) -> None:
        self._worker, self._lock = worker, Lock()
        self._edges = tuple(edges)
        self._description, _ = self._ask(Description, Describe())
        self.name, self.role, self.spec = (
            self._description.name,
            self._description.role,
            self._description.spec,
        )
        worker.who = f"agent {self.name!r}"

    def take_turn(
        self,
        fields: Fields,
        received: Sequence[tuple[Edge, Any]],
        outgoing: Sequence[Edge],
        *,
        answers: bool = False,
        step: int = 0,
        on_text: OnText | None = None,
    ) -> TurnResult[Any]:
        """Take a turn in the worker. Messages are the values that the executor moves."""
        if is_cancelled():
            rows = len(next(iter(fields.values())))
            none = (Usage(),) * rows
            return TurnResult(("",) * rows, (), none, finish=("cancelled",) * rows)
        request = TakeTurn(
            fields=dict(fields),
            received=tuple(self._edges.index(edge) for edge, _ in received),
            outgoing=tuple(self._edges.index(edge) for edge in outgoing),
            sends=len({edge.key for edge in outgoing}),
            answers=answers,
            step=step,
            stream=on_text is not None,
        )
        with self._lock:
            if not self._worker.running:
                self._check_restarted()
            done, sent = self._ask(TurnDone, request, [message for _, message in received], on_text)
        messages = tuple(sent[n] for n in done.sent)
        return TurnResult(done.text, messages, done.usage, done.reasoning, done.finish, done.sizes)

    def check_room(self, fields: Fields) -> None:
        """As `Agent.check_room`. A busy or lost worker says it when the turn comes."""
        limit, read = self.spec.positions, [fields[name] for name in self.role.fields]
        sizes = (sum(map(_bytes, row)) for row in zip(*read, strict=True))
        if limit is None or max(sizes, default=0) <= limit // 2:  # no token is shorter than a byte
            return
        if self._worker.running and self._lock.acquire(blocking=False):
            try:
                self._ask(RoomChecked, CheckRoom(fields=dict(fields)))
            finally:
                self._lock.release()

    def _check_restarted(self) -> None:
        now, _ = self._ask(Description, Describe())
        if now != self._description:
            self._worker.end()
            raise WorkerError(
                f"{self._worker.who} was started again and is another one now: {now.name!r} with "
                f"weights {now.spec.weights}, before {self._description.spec.weights}; make a new "
                "pipeline"
            )

    def _ask(
        self,
        kind: type[T],
        request: Request,
        messages: Sequence[Any] = (),
        on_text: OnText | None = None,
    ) -> tuple[T, list[Any]]:
        reply, sent = self._worker.ask(request, messages, on_text)
        if isinstance(reply, Failed):
            raise reply.raised(self._worker.who)
        assert isinstance(reply, kind), "a host answers what it is asked"
        return reply, sent


def _bytes(value: FieldValue) -> int:
    """The bytes of all that a field says."""
    return len("".join(chain.from_iterable([value] if isinstance(value, str) else value)).encode())
