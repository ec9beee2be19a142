"""Several texts read at once: disjoint groups, with one question each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import items, write
from unspoken.errors import DataError
from unspoken.tasks import Item, TaskSource, load_task, packaged, transferred
from unspoken.tasks.several import several


def made(*contexts: str) -> list[Item]:
    return [
        Item(f"q{n}", text, f"question {n}?", (f"answer {n}",), group="one")
        for n, text in enumerate(contexts)
    ]


def test_groups_are_disjoint_and_ask_about_each_place_in_turn() -> None:
    found = several(made(*"abcdefg"), 3)
    assert [item.context for item in found] == ["a b c", "d e f"]
    assert [item.id for item in found] == ["q0", "q4"]
    assert found[1].answers == ("answer 4",)
    assert {item.group for item in found} == {""}


def test_a_text_with_several_questions_is_read_once() -> None:
    found = several(made("A cat.", "a cat", "A dog.", "An owl.", "An emu."), 2)
    assert [item.context for item in found] == ["A cat. A dog.", "An owl. An emu."]


def test_too_few_texts_are_refused() -> None:
    assert several([], 4) == ()
    with pytest.raises(DataError, match=r"together=4 needs that many texts.* one has 2"):
        several(made("a", "b"), 4)


def test_items_with_further_fields_are_refused() -> None:
    plain, odd = made("a", "b")
    with pytest.raises(DataError, match=r"item 'q1' has fields \['style'\]"):
        several([plain, replace(odd, fields={"style": "short"})], 2)


def test_the_packaged_paragraphs_make_125_fours() -> None:
    _, test = packaged("paragraphs")
    task = load_task(TaskSource(name="paragraphs", together=4))
    assert (len(test), len(task.test), task.name) == (500, 125, "paragraphs, 4 at once")
    asked = {item.id: item for item in test}
    places: Counter[int] = Counter()
    known: set[str] = set()
    for item in task.test:
        own = asked[item.id]
        assert item.question == own.question
        before, found, _ = item.context.partition(own.context)
        assert found
        places[sum(other.context in before for other in test)] += 1
        known |= {other.id for other in test if other.context in item.context}
    assert len(known) == 500
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) >= 31


def test_facts_of_training_stay_out_of_groups_of_another_task(tmp_path: Path) -> None:
    """What was trained on is dropped before texts are joined, when it can still be recognised."""
    train, test = items("train", 24), items("test", 9)
    task = load_task(
        TaskSource(
            train=write(tmp_path / "a.jsonl", train),
            test=write(tmp_path / "b.jsonl", items("test", 2)),
            validation=2,
        )
    )
    seen = {**train[5], "id": "seen", "question": "Something else?"}
    source = TaskSource(
        train=write(tmp_path / "c.jsonl", [{**test[8], "id": "c"}, {**test[7], "id": "d"}]),
        test=write(tmp_path / "d.jsonl", [seen, *test[:6]]),
        validation=0,
        together=2,
    )
    found = transferred(task, source)
    assert len(found.test) == 3
    assert found.overlap.dropped == 1
    assert not any(train[5]["context"] in item.context for item in found.test)
    assert (found.train, found.validation) == (task.train, task.validation)
