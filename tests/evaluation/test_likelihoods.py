"""Likelihoods of given answers, and what an evaluator remembers of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isclose
from pathlib import Path
from typing import Any

import pytest

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Handoff, TextChannel
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.likelihoods import Likelihoods, likelihoods
from unspoken.evaluation.store import Store
from unspoken.pipeline import Edge, Pipeline, fields_of
from unspoken.tasks import Item

pytestmark = pytest.mark.numbers

QUERIES = [
    {"context": "Ada has a cat.", "question": "What has Ada?"},
    {"context": "The old house of Bo has a blue door.", "question": "Which colour?"},
    {"context": "Cy sleeps.", "question": "Does Cy sleep, or is Cy awake?"},
]
ITEMS = [Item(f"q{n}", one["context"], one["question"], ("x",)) for n, one in enumerate(QUERIES)]
ANSWERS = [(" a cat", " blue"), (" blue", " he sleeps"), (" yes", " a cat")]


def pair(model: Backbone, channel: Channel) -> Pipeline:
    reads = Agent("sender", model, role=Role(template="F: {context}", chat=False))
    solves = Agent("receiver", model, role=Role("", "{messages}\nQ: {question}\nA:", chat=False))
    return Pipeline([reads, solves], [Edge("sender", "receiver", channel)])


@pytest.mark.parametrize("channel", [TextChannel(verbatim=True), Handoff()], ids=lambda c: c.name)
def test_a_batch_finds_what_one_item_alone_finds(
    channel: Channel, tiny: Callable[..., Backbone]
) -> None:
    model = tiny("llama")
    line = pair(model, channel)
    found = likelihoods(line, QUERIES, ANSWERS, batch_size=2)
    for query, answers, nats in zip(QUERIES, ANSWERS, found.nats, strict=True):
        read = line.answerer.read(fields_of([query]), line.incoming([query]))
        for answer, nat in zip(answers, nats, strict=True):
            assert -float(model.score(read.context, [answer])) == pytest.approx(nat, abs=1e-3)


def test_positions_are_those_of_a_message(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    told = likelihoods(pair(model, TextChannel(verbatim=True)), QUERIES, ANSWERS)
    assert told.positions == sum(len(query["context"]) for query in QUERIES) / 3  # bytes
    cache = likelihoods(pair(model, Handoff()), QUERIES, ANSWERS)
    assert cache.positions == told.positions + len("F: ")
    assert likelihoods(pair(model, Handoff()).without_messages(), QUERIES, ANSWERS).positions == 0


def test_the_likelier_answer_is_the_decision() -> None:
    assert Likelihoods(((-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)), 0.0).signs == (1, -1, -1)


def test_what_was_asked_is_kept_and_found_again(
    tiny: Callable[..., Backbone], passes: Callable[[Backbone], Any], tmp_path: Path
) -> None:
    model = tiny("llama")
    line = pair(model, TextChannel(verbatim=True))
    evaluator = Evaluator(ITEMS, 2, Store(tmp_path))
    first = evaluator.likelihoods("words", line, ANSWERS)
    with passes(model) as seen:
        assert evaluator.likelihoods("again", line, ANSWERS) == first
        assert Evaluator(ITEMS, 2, Store(tmp_path)).likelihoods("words", line, ANSWERS) == first
    assert not seen
    path = tmp_path / "likelihoods" / "words.json"
    path.write_text(json.dumps({"key": "other", "found": {}}), encoding="utf-8")
    with passes(model) as seen:
        fresh = Evaluator(ITEMS, 2, Store(tmp_path))
        assert fresh.likelihoods("words", line, ANSWERS) == first
        other = fresh.about(ITEMS[::-1]).likelihoods("words", line, ANSWERS)
    assert len(seen) > 0
    assert not isclose(other.nats[0][0], first.nats[0][0])
