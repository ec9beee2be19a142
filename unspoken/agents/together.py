"""Turns side by side: what several agents write on one model is written in one batch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from time import perf_counter
from typing import NamedTuple, TypeVar, cast

from unspoken.cancelling import Cancelled, is_cancelled
from unspoken.protocols import Model, writes_together
from unspoken.types import Context, OnText, Settings, Words

__all__ = ["Steps", "WriteRequest", "Written", "together"]

T = TypeVar("T")


class WriteRequest(NamedTuple):
    """What a turn asks for: words of a model after a context of B rows."""

    model: Model
    context: Context
    settings: Settings
    on_text: OnText | None = None


class Written(NamedTuple):
    """The words, and the turn's share of the seconds that writing took."""

    words: Words
    seconds: float


Steps = Generator[WriteRequest, Written, T]
"""A turn that stops where it needs words, and ends with a result."""


def together(turns: Sequence[Steps[T]]) -> list[T]:
    """The results of turns that do not depend on one another.

    Turns that wait for words when the run is cancelled get `Cancelled` in their place.
    """
    results: dict[int, T] = {}
    waiting: dict[int, WriteRequest] = {}

    def go_on(n: int, written: Written | Cancelled | None) -> None:
        turn = turns[n]
        try:
            if isinstance(written, Cancelled):
                waiting[n] = turn.throw(written)
            else:  # None begins a generator
                waiting[n] = turn.send(cast(Written, written))
        except StopIteration as end:
            results[n] = end.value

    for n in range(len(turns)):
        go_on(n, None)
    while waiting:
        asked = dict(waiting)
        waiting.clear()
        for n, words in zip(asked, _written(list(asked.values())), strict=True):
            go_on(n, words)
    return [results[n] for n in range(len(turns))]


def _written(requests: Sequence[WriteRequest]) -> Sequence[Written | Cancelled]:
    try:
        return [Cancelled() for _ in requests] if is_cancelled() else _write(requests)
    except Cancelled:  # between the words of two groups
        return [Cancelled() for _ in requests]


def _write(requests: Sequence[WriteRequest]) -> list[Written]:
    groups: dict[object, list[int]] = {}
    for n, request in enumerate(requests):
        joins = writes_together(request.model) is not None
        groups.setdefault(id(request.model) if joins else (n,), []).append(n)
    found: dict[int, Written] = {}
    for places in groups.values():
        found |= zip(places, _timed([requests[n] for n in places]), strict=True)
    return [found[n] for n in range(len(requests))]


def _timed(requests: Sequence[WriteRequest]) -> list[Written]:
    """Write for agents on one model, in one batch if they are several."""
    start = perf_counter()
    model, first, settings, on_text = requests[0]
    joined = writes_together(model) if len(requests) > 1 else None
    if joined is None:
        words = [model.write(first, settings, on_text)]
    else:
        words = joined.write_together(
            [request.context for request in requests],
            [request.settings for request in requests],
            [request.on_text for request in requests],
        )
    each = (perf_counter() - start) / sum(request.context.batch for request in requests)
    pairs = zip(requests, words, strict=True)
    return [Written(one, each * request.context.batch) for request, one in pairs]
