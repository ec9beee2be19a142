"""An evaluator asks each thing once, whatever it is called, and keeps it in its store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import TextChannel
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.store import Store
from unspoken.pipeline import Edge, Pipeline
from unspoken.tasks import Item
from unspoken.types import Settings

ITEMS = [
    Item("q0", "Ada has a cat.", "What has Ada?", ("a cat",)),
    Item("q1", "The old house of Bo has a blue door.", "Which colour?", ("blue",)),
    Item("q2", "Cy sleeps.", "Who sleeps?", ("Cy",)),
]
OTHER = [1, 2, 0]


@pytest.fixture
def pair(tiny: Callable[..., Backbone]) -> Pipeline:
    model = tiny("llama")
    reads = Agent("sender", model, role=Role(template="F: {context}", chat=False))
    role = Role("", "{messages}\nQ: {question}\nA:", chat=False)
    solves = Agent("receiver", model, role=role, settings=Settings(max_tokens=3))
    return Pipeline([reads, solves], [Edge("sender", "receiver", TextChannel(verbatim=True))])


def test_predictions_say_what_was_answered_and_at_what_cost(pair: Pipeline) -> None:
    evaluator = Evaluator(ITEMS, 2)
    matched = evaluator.predictions("words", "matched", pair)
    deranged = evaluator.predictions("words", "deranged", pair, OTHER)
    assert [row.id for row in matched] == [item.id for item in ITEMS]
    assert [row.message_of for row in matched] == ["q0", "q1", "q2"]
    assert [row.message_of for row in deranged] == ["q1", "q2", "q0"]
    runs = pair.run_many(evaluator.queries, batch_size=2)
    assert [row.prediction for row in matched] == [run.answer for run in runs]
    assert [row.usage.wire for row in matched] == [run.usage.wire for run in runs]
    assert matched[0].costs.keys() == {"sender", "receiver"}
    assert all(row.about(item) for row, item in zip(matched, ITEMS, strict=True))
    assert not matched[0].about(ITEMS[1])
    arm = evaluator.arm("words", "matched", pair)
    assert arm.correct == tuple(row.correct for row in matched)
    assert arm.wire_bytes == sum(run.usage.wire for run in runs) / 3


def test_nothing_is_asked_twice(
    pair: Pipeline, passes: Callable[[Backbone], Any], tmp_path: Path
) -> None:
    model = pair.answerer.model
    evaluator = Evaluator(ITEMS, 2, Store(tmp_path))
    answers = [(item.answers[0], "no") for item in ITEMS]
    words = [item.answers[0] for item in ITEMS]

    def ask(by: Evaluator, name: str) -> list[Any]:
        return [
            by.arm(name, "matched", pair),
            by.arm(name, "none", pair.without_messages()),
            by.likelihoods(name, pair, answers),
            by.scores(name, pair, words, OTHER),
        ]

    first = ask(evaluator, "one")[2:]
    with passes(model) as seen:
        assert ask(evaluator, "two")[2:] == first
        assert ask(Evaluator(ITEMS, 2, Store(tmp_path)), "two")[2:] == first
        assert ask(evaluator.about(ITEMS[:]), "three")[2:] == first
    assert not seen
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("one*.json*")} == {
        "predictions/one-matched.jsonl",
        "predictions/one-none.jsonl",
        "likelihoods/one.json",
        "information/one.json",
    }
    with passes(model) as seen:
        evaluator.about(ITEMS[:2]).likelihoods("one", pair, answers[:2])
    assert seen


def test_other_answers_to_the_same_question_are_scored_anew(pair: Pipeline) -> None:
    evaluator = Evaluator(ITEMS, 2)
    first = evaluator.predictions("words", "matched", pair)
    said = first[0].prediction or "nothing"
    corrected = [Item("q0", ITEMS[0].context, ITEMS[0].question, (said,)), *ITEMS[1:]]
    again = evaluator.about(corrected).predictions("words", "matched", pair)
    assert again[0].answers == (said,)
    assert [row.prediction for row in again] == [row.prediction for row in first]


def test_lines_of_predictions_are_those_that_pages_read(pair: Pipeline, tmp_path: Path) -> None:
    Evaluator(ITEMS, 2, Store(tmp_path)).arm("words", "matched", pair)
    text = (tmp_path / "predictions" / "words-matched.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        assert list(json.loads(line)) == [
            "id",
            "question",
            "answers",
            "prediction",
            "correct",
            "messages",
            "message_of",
            "usage",
            "costs",
            "timed",
            "finish",
            "arm",
            "sha256",
        ]
