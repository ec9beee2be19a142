"""Conversations and cancelling on a GPU: `pytest -m gpu tests/gpu/test_conversations.py`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from random import Random
from time import perf_counter
from typing import Any

import pytest
import torch

from tests.gpu.test_gpu import SIZES, made
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.events import WordsWritten
from unspoken.pipeline import Pipeline
from unspoken.types import Settings

pytestmark = pytest.mark.gpu

LONG = "Ada keeps the green key in a drawer by the window, and Bo has none. " * 60


@pytest.fixture(scope="module")
def model() -> Backbone:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return made(SIZES, torch.float32, "cuda")


def asks(model: Backbone, tokens: int = 24) -> Pipeline:
    role = Role("Answer.", "{context} {question}")
    return Pipeline([Agent("one", model, role=role, settings=Settings(max_tokens=tokens))])


def test_each_turn_is_that_of_a_new_reader_and_reads_what_is_new(
    model: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, first = asks(model), 0.0
    with pipeline.session() as talk:
        for n in range(6):
            query = {"context": LONG if n == 0 else "And now?", "question": f"What of number {n}?"}
            with pipeline.session(history=talk.turns) as cold:
                dense, new = waited(cold, query), waited(talk, query)
            assert cold.turns[-1][1] == talk.turns[-1][1]
            first = dense / new
    with capsys.disabled():
        print(f"\nto the first word of turn 6: {first:.1f} times faster than a new reader")


def waited(talk: Any, query: Any) -> float:
    """Seconds to the first word."""
    start, first = perf_counter(), 0.0
    for event in talk.stream(query):
        if isinstance(event, WordsWritten):
            first = first or perf_counter() - start
    return first


@pytest.fixture
def passes(model: Backbone) -> Iterator[list[int]]:
    begun, plain = [0], model.model.base_model.forward

    def forward(*args: Any, **given: Any) -> Any:
        begun[0] += 1
        return plain(*args, **given)

    model.model.base_model.forward = forward
    yield begun
    model.model.base_model.forward = plain


def test_what_is_given_up_begins_no_further_pass(model: Backbone, passes: list[int]) -> None:
    draw, pipeline = Random(0), asks(model, tokens=200)
    query = {"context": LONG, "question": "Who?"}
    start = perf_counter()
    whole = pipeline.run(query).answer
    seconds, before = perf_counter() - start, threading.active_count()
    with pipeline.session() as talk:
        for _ in range(30):
            stream = talk.fork().stream(query)
            next(stream)
            threading.Event().wait(draw.uniform(0, 0.8 * seconds))
            at = passes[0]
            stream.close()
            assert passes[0] <= at + 1  # one may have begun while this thread counted
            assert threading.active_count() == before
        assert talk.turns == ()
        assert talk.run(query).answer == whole
