"""The wrong answers between which agents decide, and the windows that they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.errors import DataError
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import expected_answer
from unspoken.evaluation.likelihoods import likelihoods
from unspoken.pipeline import Pipeline
from unspoken.studies.teams.answer_pairs import answer_pairs, without_fact
from unspoken.studies.teams.windows import window
from unspoken.tasks import Item, normalise

pytestmark = pytest.mark.numbers


def test_a_rival_is_as_likely_as_the_answer_to_whoever_has_read_nothing(
    tiny: Callable[..., Backbone],
) -> None:
    what = ("a cat", "a dog", "the owl", "yaks", "an old hat")
    items = [
        Item(f"q{n}", f"Ada {n} has {thing}, no hat.", f"What has Ada {n}?", (thing,))
        for n, thing in enumerate(what)
    ]
    role = Role("", "F: {context}\nQ: {question}\nA:", chat=False)
    decider = Pipeline([Agent("sender", tiny("llama"), role=role)])
    found = answer_pairs(Evaluator(items, 4), decider, expected=expected_answer, seed=0)
    read = without_fact(decider)
    assert read.answerer.role.template == "F:\nQ: {question}\nA:"
    for item, (right, rival) in zip(items, found, strict=True):
        wrong = [
            expected_answer(read.answerer, other)
            for other in items
            if normalise(other.answers[0]) not in normalise(item.context)
        ]
        query = [{"question": item.question}]
        (nats,) = likelihoods(read, query, [(right, *wrong)]).nats
        away = {said: abs(nat - nats[0]) for said, nat in zip(wrong, nats[1:], strict=True)}
        assert right == expected_answer(read.answerer, item)
        assert away[rival] == pytest.approx(min(away.values()), abs=1e-3)
    same = Evaluator([items[2], replace(items[2], id="q9")])
    with pytest.raises(DataError, match="has no wrong answer among the 2 items"):
        answer_pairs(same, decider, expected=expected_answer, seed=0)


def test_a_window_is_so_many_tokens_in_a_row(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    item = Item("q1", "The caf\N{LATIN SMALL LETTER E WITH ACUTE} is old.", "?", ("old",))
    whole = len(model.tokens(item.context))
    found = [window(item, 6, agent, seed=0, model=model) for agent in range(8)]
    assert found == [window(item, 6, agent, seed=0, model=model) for agent in range(8)]
    assert len({words for words, _ in found}) > 2
    for words, count in found:
        assert words in item.context
        assert count == 6
        assert 0 < len(model.tokens(words)) <= 7  # at most one letter of two bytes more
    assert window(item, whole, 3, seed=0, model=model) == (item.context, whole)
    assert window(item, 99, 3, seed=0, model=model) == (item.context, whole)
    blank = Item("q2", f"x{' ' * 30}y", "?", ("x",))
    assert {window(blank, 1, agent, seed=0, model=model)[0] for agent in range(9)} <= {"x", "y"}
