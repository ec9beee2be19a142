"""The task `mixture`: kinds of text in equal parts, kept apart, and held out by name."""

import re
from collections import Counter

import pytest

from unspoken.errors import UnknownName
from unspoken.tasks import Item, TaskSource, load_task
from unspoken.tasks.mixture import KINDS, MIXED, read_kind

FEW = ("cities", "definitions", "people", "qasc", "review_paragraph", "review_sentence", "words")


def kind_of(item: Item) -> str:
    """By its id and its length, which is how a person would tell."""
    name = re.split(r"[-/]", item.id)[0]
    return f"{name} sentence" if item.id.endswith("sentence") else name


def mixed(**given: object) -> TaskSource:
    return TaskSource.model_validate({"name": "mixture", "kinds": FEW, "each": 100, **given})


def test_kinds_come_in_equal_parts_and_all_of_them_are_validated() -> None:
    task = load_task(mixed(validation=70))
    assert set(Counter(map(kind_of, task.validation)).values()) == {10}
    assert len(Counter(map(kind_of, task.train))) == len(FEW)
    assert all(80 < count <= 100 for count in Counter(map(kind_of, task.train)).values())
    assert set(Counter(map(kind_of, task.validation[:35])).values()) >= {4, 5}  # not kind by kind


def test_no_fact_and_no_group_is_on_two_sides() -> None:
    task = load_task(mixed(validation=70, each=5000))
    trained, held = ({item.group for item in part} - {""} for part in (task.train, task.validation))
    assert trained
    assert held
    assert not trained & held
    assert not any(task.overlap.facts.values())
    tested = {item.group for item in task.test} - {""}
    assert tested
    assert not tested & (trained | held)


def test_a_sentence_holds_its_answers_and_nothing_else_of_its_paragraph() -> None:
    paragraphs = {item.id: item for item in read_kind("review_paragraph", 1, 0)[0]}
    sentences = read_kind("review_sentence", 1, 0)[0]
    assert len(sentences) > 1000
    for item in sentences:
        whole = paragraphs[item.id.removesuffix("-sentence")].context
        assert item.context in whole
        assert len(item.context) < len(whole)
        assert all(answer in item.context for answer in item.answers)
        assert 6 <= len(item.context.split()) <= 45


@pytest.mark.parametrize("kind", ["definitions", "handbook", "verses"])
def test_a_gap_is_filled_by_the_words_that_come_next(kind: str) -> None:
    for part in read_kind(kind, 1, 0):
        for item in part:
            quoted = re.fullmatch(r"Which words come after “(.+)”\?", item.question)
            assert quoted, item
            before, _, after = " ".join(item.context.split()).partition(quoted[1])
            assert quoted[1] not in before + after
            assert after.startswith(f" {item.answers[0]}")


def test_invented_kinds_have_as_many_as_are_wanted_and_follow_the_seed() -> None:
    for kind in ("people", "words"):
        one, again, other = (read_kind(kind, 40, seed) for seed in (0, 0, 1))
        assert len(one[0]) == 40
        assert one == again
        assert one != other
    for item in read_kind("words", 40, 0)[0]:
        asked = re.search("“(.+)”", item.question)
        assert asked
        words = item.context.split()
        assert words[words.index(asked[1]) + 1] == item.answers[0]


def test_a_kind_is_held_out_by_name() -> None:
    task = load_task(mixed(without=["review_sentence", "people"]))
    kinds = {kind_of(item) for part in (task.train, task.validation, task.test) for item in part}
    assert len(kinds) == len(FEW) - 2
    with pytest.raises(UnknownName, match="kind of text to leave out 'peple'"):
        load_task(mixed(without=["peple"]))
    with pytest.raises(UnknownName, match="kind of text 'reviews'"):
        load_task(mixed(kinds=["reviews"]))


def test_every_kind_is_a_task_of_its_own_and_names_its_files() -> None:
    task = load_task(TaskSource(name="review_sentence"))
    assert list(task.files) == ["paragraphs_all"]
    assert {item.id for item in task.test} == {
        item.id for item in read_kind("review_sentence", 1, 0)[1]
    }
    assert set(MIXED) == set(KINDS) - {"paragraphs"}
