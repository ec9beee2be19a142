"""What a request gets: one body, or a stream of events."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from time import monotonic

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unspoken.serving.answering import Answer, Begun, Told
from unspoken.serving.bounds import Bounds
from unspoken.serving.following import Follower
from unspoken.serving.metrics import Metrics
from unspoken.serving.refusals import Refusal, refusal_of
from unspoken.serving.replies import DONE, Reply, encoded, event_of
from unspoken.serving.workers import Job

__all__ = ["Exchange", "Followed", "Streamed", "json_response", "refuse"]

_log = logging.getLogger("unspoken.serving")

_HEADERS = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx hands a stream on as it comes
}

_QUIET = b": reading\n\n"
"""A comment: it keeps a proxy from cutting a quiet stream."""


def json_response(content: object, status: int = 200, **headers: str) -> Response:
    """A body of JSON in ASCII."""
    return Response(encoded(content), status, headers, media_type="application/json")


def refuse(error: BaseException) -> Response:
    """The response to a request that failed, in the form of OpenAI's errors."""
    found = _refusal(error)
    return json_response(found.content(), found.status, **found.headers)


def _refusal(error: BaseException) -> Refusal:
    found = refusal_of(error)
    if found.status == 500:
        _log.error("a request failed", exc_info=error)
    return found


_PACE = 0.1
"""Seconds between two pieces for a follower, if they are few."""

_EACH = 0.01
"""Seconds for each follower of a run, if they are many. So all of them get 100 pieces a second."""


class Quiet:
    """Nothing was told for a while."""


async def _gone(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Exchange:
    """A request that is being answered. The client's going away gives its work up."""

    def __init__(
        self, job: Job[Told], reply: Reply, metrics: Metrics, receive: Receive, begun: float
    ) -> None:
        self.job, self.reply, self.metrics = job, reply, metrics
        self.begun, self.first = begun, 0.0
        self._watch = asyncio.create_task(self._until_gone(receive))

    async def _until_gone(self, receive: Receive) -> None:
        await _gone(receive)
        self.job.give_up()

    def close(self) -> None:
        """Nobody waits any more."""
        self._watch.cancel()
        self.job.give_up()

    async def next(self, seconds: float | None = None) -> Told | Quiet | None:
        """What is told next, None at the end, `Quiet` if that takes longer than some seconds.

        Raises what went wrong, which may be a `TimeoutError` of its own.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                told = await self.job.get()
        except TimeoutError:
            if limit.expired():
                return Quiet()
            raise
        if isinstance(told, str) and not self.first:
            self.first = monotonic()
            self.metrics.first(self.reply.model, self.first - self.begun)
        if isinstance(told, Answer):
            took = monotonic() - self.first if self.first else 0.0
            self.metrics.answered(self.reply.model, told.run, told.sent, took)
        return told

    async def whole(self) -> Response:
        """The answer in one body. Raises what went wrong."""
        try:
            while (told := await self.next()) is not None:
                if isinstance(told, Answer):
                    return json_response(self.reply.whole(told.run, told.unspoken))
        finally:
            self.close()
        raise Refusal(503, "the request was given up", code="cancelled")

    async def streamed(self, bounds: Bounds, *, usage: bool) -> Response:
        """The answer in events. Raises what goes wrong before it begins, if that is soon."""
        try:
            await self.next(bounds.patience)
        except BaseException:
            self.close()
            raise
        return Streamed(self, bounds, usage=usage)


class EventStream(Response, ABC):
    """Server-sent events. A reader who takes nothing for a while is given up."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(None, headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self.bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async for frame in self._frames(receive):
                await self._send(send, frame, more=True)
            await self._send(send, b"", more=False)
        except TimeoutError:
            _log.warning("a reader took nothing for %g s and was given up", self.bounds.stall)
        finally:
            self.close()

    async def _send(self, send: Send, body: bytes, *, more: bool) -> None:
        """Send some bytes. Raises `TimeoutError` if the reader takes nothing."""
        async with asyncio.timeout(self.bounds.stall):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    @abstractmethod
    def _frames(self, receive: Receive) -> AsyncIterator[bytes]: ...

    @abstractmethod
    def close(self) -> None:
        """Nobody reads any more."""


class Streamed(EventStream):
    """An answer as server-sent events. usage: whether they end with what it has cost."""

    def __init__(self, exchange: Exchange, bounds: Bounds, *, usage: bool) -> None:
        super().__init__(bounds)
        self.exchange, self.usage = exchange, usage

    def close(self) -> None:
        self.exchange.close()

    async def _frames(self, receive: Receive) -> AsyncIterator[bytes]:
        reply = self.exchange.reply
        if (role := reply.role()) is not None:
            yield event_of(role)
        try:
            while True:
                match told := await self.exchange.next(self.bounds.quiet):
                    case Quiet():
                        yield _QUIET
                    case None:
                        raise Refusal(503, "the request was given up", code="cancelled")
                    case Begun():
                        pass
                    case str():
                        yield event_of(reply.words(told))
                    case dict():
                        yield event_of(reply.shown(told))
                    case Answer():
                        for frame in self._end(told):
                            yield frame
                        return
        except Exception as error:  # the client raises it, and takes nothing for the whole answer
            yield event_of(_refusal(error).content())

    def _end(self, answer: Answer) -> list[bytes]:
        reply, run = self.exchange.reply, answer.run
        found = [reply.end(run)]
        if answer.unspoken is not None:
            found.insert(0, reply.shown({"type": "ended", **answer.unspoken}))
        if self.usage:
            found.append(reply.usage(run))
        return [*map(event_of, found), DONE]


class Followed(EventStream):
    """A run of which somebody else asked, as events: so far, and from now on.

    They come at most ten times a second, and less often if many follow, so that these cost little.
    leave: is called when nobody reads any more.
    """

    def __init__(self, follower: Follower, bounds: Bounds, leave: Callable[[], None]) -> None:
        super().__init__(bounds)
        self.follower, self._leave = follower, leave

    def close(self) -> None:
        self._leave()

    async def _frames(self, receive: Receive) -> AsyncIterator[bytes]:
        gone = asyncio.create_task(_gone(receive))
        gone.add_done_callback(lambda _: self.follower.wake())
        try:
            while not (self.follower.done or gone.done()):
                try:
                    async with asyncio.timeout(self.bounds.quiet):
                        frames = await self.follower.next()
                except TimeoutError:
                    frames = _QUIET
                yield frames
                if not self.follower.done:
                    many = len(self.follower.run.followers)
                    await asyncio.wait([gone], timeout=max(_PACE, _EACH * many))
        finally:
            gone.cancel()
