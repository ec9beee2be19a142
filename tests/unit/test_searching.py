"""Sentences that fit a question best, and the agent that sends them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from unspoken import Agent, Edge, Pipeline, Role, TextChannel
from unspoken.agents.searching import SearchingAgent, best_sentences
from unspoken.errors import MissingExtra
from unspoken.evaluation.identity import identity
from unspoken.testing import ScriptedModel

TEXT = "Ada lives in Paris. Bo keeps two dogs! Who feeds the dogs of Bo? It rains in March."


@pytest.mark.parametrize(
    ("question", "count", "found"),
    [
        ("Where does Ada live, in Paris?", 1, "Ada lives in Paris."),
        ("When does it rain: March?", 1, "It rains in March."),
        ("Which dogs, and what about Ada?", 2, "Ada lives in Paris. Bo keeps two dogs!"),
        ("dogs Bo", 2, "Bo keeps two dogs! Who feeds the dogs of Bo?"),
        ("Is it?", 1, "Ada lives in Paris."),  # stop words alone: the first one
        ("xyzzy", 1, "Ada lives in Paris."),  # no word in common
        ("dogs", 9, TEXT),
    ],
)
def test_the_best_sentences_come_in_their_order(question: str, count: int, found: str) -> None:
    assert best_sentences(TEXT, question, count) == found


@pytest.mark.parametrize(
    "text", ["", "   ", "It is. So it was. And so on.", "日本語。 短い。 文。"]
)
def test_texts_without_words_to_search_are_no_error(text: str) -> None:
    assert best_sentences(text, "Is it?", 2) in (text, "It is. So it was.", "日本語。 短い。 文。")


def pipeline(count: int) -> Pipeline:
    model = ScriptedModel(lambda words: "yes" if "dogs" in words else "no")
    solver = Agent("solver", model, role=Role("", "{messages}", "{message}", chat=False))
    searcher = SearchingAgent("searcher", model, count=count)
    return Pipeline([searcher, solver], [Edge("searcher", "solver", TextChannel())])


def test_each_row_is_searched_for_its_own_question() -> None:
    asked = ["What does Bo keep, dogs?", "Where is Paris?"]
    runs = pipeline(1).run_many([{"context": TEXT, "question": one} for one in asked])
    assert [run.answer for run in runs] == ["yes", "no"]
    assert [run.turns[0].text for run in runs] == ["Bo keeps two dogs!", "Ada lives in Paris."]
    costs = [run.costs["searcher"] for run in runs]
    assert [(cost.read, cost.written, cost.passes) for cost in costs] == [(0, 0, 0)] * 2
    assert costs[0].wire > 0


def test_what_is_found_is_told_once() -> None:
    told: list[tuple[int, str]] = []
    searcher = SearchingAgent("sender", ScriptedModel({}))
    fields = {"context": (TEXT, TEXT), "question": ("dogs", "March")}
    state, _ = searcher.compute(fields, on_text=lambda row, words: told.append((row, words)))
    assert state.text is not None
    assert told == list(enumerate(state.text))


def test_the_number_of_sentences_counts_in_the_identity_of_a_pipeline() -> None:
    assert identity(pipeline(1)) != identity(pipeline(2))
    searcher = pipeline(2).agents["searcher"]
    assert isinstance(searcher, SearchingAgent)
    assert replace(searcher).count == 2


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[search\]'"):
        pipeline(1)
