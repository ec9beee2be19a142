"""Eight threads on shared models give, bit for bit, what one thread gives, over every channel."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from hashlib import sha256
from itertools import count
from threading import local
from time import sleep
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.randomness import untouched
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.pipeline import Pipeline, Query
from unspoken.seeding import seeded
from unspoken.testing import tiny_backbone
from unspoken.types import Settings, Spec
from unspoken.wire import Message

from .cases import CASES, Case
from .test_channels import CONTEXTS, QUESTIONS, model_of, world_of

pytestmark = [pytest.mark.numbers, pytest.mark.usefixtures("switches")]

THREADS = 8
ITEMS = [
    {"context": f"{CONTEXTS[n % 3]} No {n}.", "question": QUESTIONS[(n + n // 3) % 3]}
    for n in range(THREADS)
]


SENT = local()
CHOSEN = [
    case if "-" not in case.name else pytest.param(case, marks=pytest.mark.zoo) for case in CASES
]
"""By default one case for each channel."""


@pytest.fixture
def switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=CHOSEN, ids=lambda case: case.name)
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The channel between models of which nothing is known yet. It notes what each thread sends."""
    case: Case = request.param
    sender = model_of(tiny_backbone, case.sender)
    receiver = sender
    if case.receiver != case.sender:
        receiver = model_of(tiny_backbone, case.receiver)
    made = world_of(case, sender, receiver).pipeline
    kind = type(made.edges[0].channel)
    send = kind.send

    def noted(channel: Channel, state: SenderState) -> Message:
        message = send(channel, state)
        SENT.digest = sha256(message.to_bytes()).hexdigest()
        return message

    monkeypatch.setattr(kind, "send", noted)
    return made.with_answer_settings(Settings(max_tokens=3))


def at_once(ask: Callable[[Any], Any]) -> list[Any]:
    """What each item gives, all of them at once."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(ask, ITEMS))


def found(pipeline: Pipeline, item: Query) -> tuple[str | None, ...]:
    """What a run gives: what every agent wrote, and a digest of the bytes that were sent."""
    run = pipeline.run(item)
    return run.answer, SENT.digest, *(turn.text for turn in run.turns)


async def answers(pipeline: Pipeline) -> list[str]:
    runs = await asyncio.gather(*(pipeline.arun(item) for item in ITEMS))
    return [run.answer for run in runs]


def test_eight_threads_give_what_one_gives(pipeline: Pipeline):
    with untouched():
        expected = [found(pipeline, item) for item in ITEMS]
        assert len({sent for _, sent, *_ in expected}) == THREADS
        assert at_once(lambda item: found(pipeline, item)) == expected
        assert asyncio.run(answers(pipeline)) == [answer for answer, *_ in expected]


def test_eight_threads_share_a_pool(pipeline: Pipeline):
    """It holds all that it is going to hold: what is reused depends on what was read before."""
    pool = AnchorPool("shifted")
    served = pipeline.served_by(pool)
    for _ in range(2):
        expected = [found(served, item) for item in ITEMS]
    assert at_once(lambda item: found(served, item)) == expected
    pool.check()


def test_what_is_found_out_about_a_model_is_found_out_by_one_thread(
    monkeypatch: pytest.MonkeyPatch,
):
    alone, model, calls = tiny_backbone("gemma").spec, tiny_backbone("gemma"), list[None]()
    describe, snapshot, moments = model._describe, model._identity._snapshot, count()

    def counted() -> Spec:
        calls.append(None)
        return describe()

    def slow() -> object:
        sleep(0.01 * next(moments))  # each thread looks at once, and is done at another time
        return snapshot()

    monkeypatch.setattr(model, "_describe", counted)
    monkeypatch.setattr(model._identity, "_snapshot", slow)
    assert at_once(lambda _: model.spec) == THREADS * [alone]
    assert len(calls) == 1


ROTATIONS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 8,
        "long_factor": [3.0, 4.0, 5.0, 6.0] * 2,
    },
}


@pytest.mark.parametrize("kind", ROTATIONS)
def test_rotations_that_follow_the_length_do_not_follow_other_threads(kind: str):
    tiny = tiny_backbone("llama")
    config = deepcopy(tiny.model.config)
    config.max_position_embeddings = 64 if kind == "dynamic" else 256
    config.rope_parameters = {"rope_theta": 10_000.0, **ROTATIONS[kind]}
    with seeded(0):
        made = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model = Backbone(made, tiny.tokenizer)
    assert model.border == 64
    rotary, states = model.body.rotary_emb, torch.zeros(1, 100, 32)

    def turned(item: dict[str, str]) -> list[list[float]]:
        at = torch.arange((20, 100)[ITEMS.index(item) % 2])[None]
        return [part[0, -1].tolist() for _ in range(20) for part in rotary(states, at)]

    expected = [turned(item) for item in ITEMS]
    for _ in range(5):
        assert at_once(turned) == expected
    other = deepcopy(model).body.rotary_emb
    assert other.forward.args[0] is other is not rotary
