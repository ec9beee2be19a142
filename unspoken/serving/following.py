"""Runs that are shown: who comes late is told what has happened, and then what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Any

from unspoken.serving.answering import Answer, Told
from unspoken.serving.bounds import Bounds
from unspoken.serving.refusals import Refusal, refusal_of
from unspoken.serving.replies import DONE, event_of

__all__ = ["Follower", "Runs", "ShownRun"]

_KEPT = 60.0
"""Seconds for which a run that is over can still be followed, by who has lost the connection."""

_MOST_KEPT = 64

_SHOWN = 200
"""Letters of a question in a list."""


class ShownRun:
    """A run, as events, for any number of followers. All methods are called in the loop.

    Following is not owning: who follows neither holds up the run nor ends it.
    """

    def __init__(self, name: str, owner: str, model: str, question: str) -> None:
        self.name, self.owner, self.model, self.question = name, owner, model, question
        self.followers = set[Follower]()
        self.over = False
        self._begun, self._ended = monotonic(), 0.0
        self._events = list[dict[str, Any]]()
        self._growing = dict[tuple[str, int], dict[str, Any]]()  # by what it is and its turn

    @property
    def seconds(self) -> float:
        """How long ago it was asked."""
        return monotonic() - self._begun

    @property
    def forgotten(self) -> bool:
        return self.over and monotonic() - self._ended > _KEPT

    @property
    def described(self) -> dict[str, Any]:
        about = {"id": self.name, "model": self.model, "question": self.question[:_SHOWN]}
        return {**about, "seconds": round(self.seconds, 3), "over": self.over}

    def take(self, told: Told) -> None:
        """What the run tells next."""
        match told:
            case str():
                self._add({"type": "answer", "words": told})
            case dict():
                self._add(told)
            case Answer():
                run = told.run
                self._add({"type": "ended", "ended_by": run.ended_by, "finish": run.finish})
            case _:
                pass

    def end(self, error: BaseException | None) -> None:
        """Nothing more is told. error: what ended it."""
        if error is not None:
            self._add({"type": "error", "message": refusal_of(error).message})
        elif not self._events or self._events[-1]["type"] != "ended":
            self._add({"type": "error", "message": "the request was given up"})
        self.over, self._ended = True, monotonic()
        self._tell(DONE)

    def snapshot(self) -> bytes:
        """All that has happened: the words of a turn in one piece, of its canvas the newest."""
        events = [
            {**event, "words": "".join(event["words"])} if _is_written(event) else event
            for event in self._events
        ]
        frame = event_of({"type": "snapshot", "at": self._at(), "events": events})
        return frame + DONE if self.over else frame

    def _add(self, event: dict[str, Any]) -> None:
        event = {**event, "at": self._at()}
        self._note(event)
        if self.followers:
            self._tell(event_of(event))

    def _note(self, event: dict[str, Any]) -> None:
        if not _is_written(event) and event["type"] != "canvas":
            self._events.append(event)
            return
        key = event["type"], event.get("step", 0)
        known = self._growing.get(key)
        if known is None:
            known = {**event, "words": [event["words"]]} if _is_written(event) else dict(event)
            self._growing[key] = known
            self._events.append(known)
        elif _is_written(event):
            known["words"].append(event["words"])
        else:
            known.update(event)

    def _tell(self, frame: bytes) -> None:
        for follower in self.followers:
            follower.put(frame)

    def _at(self) -> int:
        """Milliseconds since it was asked."""
        return round(1000 * self.seconds)


def _is_written(event: dict[str, Any]) -> bool:
    return event["type"] in ("words", "answer")


class Follower:
    """Who follows a run. What waits is bounded: who falls behind gets all of it anew, in short.

    most: bytes that may wait.
    """

    def __init__(self, run: ShownRun, most: int) -> None:
        self.run, self.most = run, most
        self._waiting: list[bytes] | None = None  # None: what comes next is a snapshot
        self._size = 0
        self._news = asyncio.Event()
        self._news.set()

    @property
    def done(self) -> bool:
        """Whether all was told that there will ever be."""
        return self.run.over and self._waiting == []

    def put(self, frame: bytes) -> None:
        if self._waiting is not None:
            self._size += len(frame)
            self._waiting.append(frame)
            if self._size > self.most:
                self._waiting = None
        self.wake()

    def wake(self) -> None:
        """Let `next` return, even with nothing."""
        self._news.set()

    async def next(self) -> bytes:
        """What has happened since the last call, as frames. The first time, and late, all of it."""
        await self._news.wait()
        self._news.clear()
        frames = [self.run.snapshot()] if self._waiting is None else self._waiting
        self._waiting, self._size = [], 0
        return b"".join(frames)


class Runs:
    """The runs that are shown, each to its owner alone."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._runs = dict[str, ShownRun]()

    def begin(self, name: str, owner: str, model: str, question: str) -> ShownRun:
        """A run that begins."""
        over = [run for run in self._runs.values() if run.over]
        for run in over[:-_MOST_KEPT]:
            del self._runs[run.name]
        self._runs[name] = ShownRun(name, owner, model, question)
        return self._runs[name]

    def of(self, owner: str) -> Iterator[ShownRun]:
        """Those of an owner, the oldest first."""
        for run in [run for run in self._runs.values() if run.forgotten]:
            del self._runs[run.name]
        yield from [run for run in self._runs.values() if run.owner == owner]

    def follower(self, name: str, owner: str) -> Follower:
        """Somebody who begins to follow a run. Raises `Refusal`."""
        own = {run.name: run for run in self.of(owner)}
        if name not in own:
            raise Refusal(
                404,
                f"there is no run {name[:100]!r}: it is over, or was not asked with 'unspoken'; "
                "GET /v1/runs lists those that there are",
            )
        most = self.bounds.followers
        if sum(len(run.followers) for run in own.values()) >= most:
            raise Refusal.busy(f"{most} follow your runs already, and no more may; ask later", 5)
        follower = Follower(own[name], self.bounds.unread)
        own[name].followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """It follows no more."""
        follower.run.followers.discard(follower)
