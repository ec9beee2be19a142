"""Likelihoods of given answers, the windows that agents read, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Handoff, TextChannel
from unspoken.errors import DataError
from unspoken.evaluation.asking import Asked, Desk, likelihoods
from unspoken.pipeline import Edge, Pipeline, fields_of
from unspoken.studies.information.report import spoken
from unspoken.studies.teams.rivals import blind, rivals
from unspoken.studies.teams.windows import window
from unspoken.tasks import Item, normalise

pytestmark = pytest.mark.numbers

QUERIES = [
    {"context": "Ada has a cat.", "question": "What has Ada?"},
    {"context": "The old house of Bo has a blue door.", "question": "Which colour?"},
    {"context": "Cy sleeps.", "question": "Does Cy sleep, or is Cy awake?"},
]
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
        read = line.answerer.hear(fields_of([query]), line.mail([query]))
        for answer, nat in zip(answers, nats, strict=True):
            assert -float(model.score(read.context, [answer])) == pytest.approx(nat, abs=1e-3)


def test_positions_are_those_of_a_message(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    told = likelihoods(pair(model, TextChannel(verbatim=True)), QUERIES, ANSWERS)
    assert told.positions == sum(len(query["context"]) for query in QUERIES) / 3  # bytes
    cache = likelihoods(pair(model, Handoff()), QUERIES, ANSWERS)
    assert cache.positions == told.positions + len("F: ")
    assert likelihoods(pair(model, Handoff()).alone(), QUERIES, ANSWERS).positions == 0


def test_the_likelier_answer_is_the_decision() -> None:
    assert Asked(((-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)), 0.0).signs == (1, -1, -1)


def test_what_was_asked_is_kept_and_found_again(
    tiny: Callable[..., Backbone], passes: Callable[[Backbone], Any], tmp_path: Path
) -> None:
    model = tiny("llama")
    line = pair(model, TextChannel(verbatim=True))
    desk = Desk(2, tmp_path)
    first = desk.ask("words", line, QUERIES, ANSWERS)
    with passes(model) as seen:
        assert desk.ask("again", line, QUERIES, ANSWERS) == first
        assert Desk(2, tmp_path).ask("words", line, QUERIES, ANSWERS) == first
    assert not seen
    path = tmp_path / "likelihoods" / "words.json"
    path.write_text(json.dumps({"key": "other", "found": {}}), encoding="utf-8")
    with passes(model) as seen:
        assert Desk(2, tmp_path).ask("words", line, QUERIES, ANSWERS) == first
        other = Desk(2, tmp_path).ask("words", line, QUERIES[::-1], ANSWERS)
    assert len(seen) > 0
    assert not isclose(other.nats[0][0], first.nats[0][0])


def test_a_rival_is_as_likely_as_the_answer_to_whoever_has_read_nothing(
    tiny: Callable[..., Backbone],
) -> None:
    what = ("a cat", "a dog", "the owl", "yaks", "an old hat")
    items = [
        Item(f"q{n}", f"Ada {n} has {thing}, no hat.", f"What has Ada {n}?", (thing,))
        for n, thing in enumerate(what)
    ]
    role = Role("", "F: {context}\nQ: {question}\nA:", chat=False)
    lone = Pipeline([Agent("sender", tiny("llama"), role=role)])
    found = rivals(items, lone, say=spoken, seed=0, desk=Desk(4, None))
    read = blind(lone)
    assert read.answerer.role.template == "F:\nQ: {question}\nA:"
    for item, (right, rival) in zip(items, found, strict=True):
        wrong = [
            spoken(other)
            for other in items
            if normalise(other.answers[0]) not in normalise(item.context)
        ]
        query = [{"question": item.question}]
        (nats,) = likelihoods(read, query, [(right, *wrong)]).nats
        away = {said: abs(nat - nats[0]) for said, nat in zip(wrong, nats[1:], strict=True)}
        assert right == spoken(item)
        assert away[rival] == pytest.approx(min(away.values()), abs=1e-3)
    with pytest.raises(DataError, match="has no wrong answer among the 2 items"):
        rivals([items[2], replace(items[2], id="q9")], lone, say=spoken, seed=0, desk=Desk(4, None))


def test_a_window_is_so_many_tokens_in_a_row(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    item = Item("q1", "The caf\N{LATIN SMALL LETTER E WITH ACUTE} is old.", "?", ("old",))
    whole = len(model.tokens(item.context))
    found = [window(item, 6, agent, seed=0, backbone=model) for agent in range(8)]
    assert found == [window(item, 6, agent, seed=0, backbone=model) for agent in range(8)]
    assert len({words for words, _ in found}) > 2
    for words, count in found:
        assert words in item.context
        assert count == 6
        assert 0 < len(model.tokens(words)) <= 7  # at most one letter of two bytes more
    assert window(item, whole, 3, seed=0, backbone=model) == (item.context, whole)
    assert window(item, 99, 3, seed=0, backbone=model) == (item.context, whole)
    blank = Item("q2", f"x{' ' * 30}y", "?", ("x",))
    assert {window(blank, 1, agent, seed=0, backbone=model)[0] for agent in range(9)} <= {"x", "y"}
