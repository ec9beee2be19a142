"""Tasks: reading, keeping splits apart, matching answers, partners for the deranged control."""

import hashlib
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import ValidationError

from unspoken.errors import DataError, UnknownName
from unspoken.evaluation.items import query
from unspoken.tasks import (
    Item,
    Task,
    TaskSource,
    load_jsonl,
    load_task,
    matches,
    normalise,
    packaged,
    partners,
    people,
)
from unspoken.tasks.splits import overlap
from unspoken.types import Document

GOOD = {"id": "q1", "context": "Ada keeps a parrot.", "question": "What?", "answers": ["parrot"]}


def row(number: int, **other: object) -> dict[str, object]:
    """An item that shares nothing with another number's."""
    return {
        "id": f"q{number}",
        "context": f"Ada {number} keeps parrot {number}.",
        "question": f"What does Ada {number} keep?",
        "answers": [f"parrot {number}"],
        **other,
    }


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    return path


def task_of(folder: Path, train: list[dict[str, object]], validation: int) -> Task:
    test = [row(number) for number in range(1000, 1003)]
    return load_task(
        TaskSource(
            train=write(folder / "train.jsonl", *train),
            test=write(folder / "test.jsonl", *test),
            validation=validation,
        )
    )


# Reading -----------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    # U+2028 is a line break to str.splitlines, but not in JSON lines.
    path.write_bytes(
        (json.dumps(GOOD) + "\r\n\n").encode()
        + json.dumps(row(2, context="Ünder\u2028way", group="g"), ensure_ascii=False).encode()
    )
    first, second = load_jsonl(path)
    assert first == Item("q1", "Ada keeps a parrot.", "What?", ("parrot",))
    assert (second.context, second.group) == ("Ünder\u2028way", "g")


def test_an_item_may_have_fields_and_documents(tmp_path: Path) -> None:
    documents = {"a.md": "Ada keeps a {parrot}.", "b.md": "Bo has none."}
    lines = [
        GOOD | {"fields": {"style": "brief", "documents": documents}},
        {"id": "q2", "question": "Who?", "answers": ["Bo"], "fields": {"notes": ["One.", "Two."]}},
    ]
    first, second = load_jsonl(write(tmp_path / "own.jsonl", *lines))
    found = tuple(map(Document._make, documents.items()))
    assert query(first) == {
        "question": "What?",
        "context": "Ada keeps a parrot.",
        "style": "brief",
        "documents": found,
    }
    assert second.context == "One.\n\nTwo."  # the fact by which splits are kept apart
    assert first != second
    assert len({first, second}) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            json.dumps(GOOD | {"fields": {"d": {"a": ""}}}).encode(),
            "fields: d: .*document 'a' .*empty",
        ),
        (json.dumps(GOOD | {"fields": {"d": 7}}).encode(), "fields: d: .*is 7; give words"),
        (json.dumps(GOOD | {"fields": {"question": "x"}}).encode(), "'question' belongs beside"),
        (json.dumps(GOOD | {"fields": 7}).encode(), "fields: Input should be an object"),
        (
            json.dumps(GOOD).encode()[:-1] + b', "fields": {"d": {"a": "x", "a": "y"}}}',
            "'a' is there twice",
        ),
        (b'{"id": "q2", ', "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[1, 2]", "object"),
        (json.dumps(GOOD | {"context": ""}).encode(), "context: .*holds no word"),
        (json.dumps(GOOD | {"context": " ... "}).encode(), "context: .*holds no word"),
        (json.dumps(GOOD | {"answers": []}).encode(), "answers: .*at least 1"),
        (json.dumps(GOOD | {"answers": ["ok", "the"]}).encode(), "answers: 1: .*holds no word"),
        (json.dumps(GOOD | {"answers": "parrot"}).encode(), "answers: .*valid"),
        (json.dumps(GOOD | {"id": ""}).encode(), "id: .*at least 1"),
        (json.dumps(GOOD | {"anwser": "x"}).encode(), "anwser: Extra"),
        (json.dumps({"id": "q2"}).encode(), "context: Field required; question: Field required"),
        (json.dumps(GOOD).encode(), "id 'q1' is used on an earlier line"),
    ],
)
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=rf"own\.jsonl, line 3: (?s:.*){said}"):
        load_jsonl(path)


def test_a_broken_line_is_told_what_it_must_look_like(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_jsonl(write(tmp_path / "own.jsonl", {"id": "q1"}))
    example = str(caught.value).split("must look like ")[1].rsplit(", with a group", 1)[0]
    assert load_jsonl(write(tmp_path / "good.jsonl", json.loads(example)))


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        load_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no items"):
        load_jsonl(write(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize("name", ["qasc", "squad_sentence"])
def test_packaged_answers_stand_in_their_contexts(name: str) -> None:
    train, test = packaged(name)
    assert len(train) > 3000
    assert len(test) >= 590
    for item in (*train, *test):
        assert all(normalise(answer) in normalise(item.context) for answer in item.answers), item.id


def test_sums_are_told_without_their_question_and_answered_by_a_number() -> None:
    for item in (both := [*packaged("gsm8k")[0], *packaged("gsm8k")[1]]):
        assert item.question.endswith("?")
        assert item.question not in item.context
        assert re.fullmatch(r"-?\d+", item.answers[0])
    assert len({normalise(item.question) for item in both}) == len(both) == 1200


def test_packaged_names_what_exists() -> None:
    with pytest.raises(UnknownName, match=r"'quasc'; did you mean 'qasc'"):
        packaged("quasc")
    with pytest.raises(UnknownName, match="Known: cities, definitions, gsm8k, handbook,"):
        packaged("people")


# Cities ------------------------------------------------------------------------------------------

CITY = re.compile(
    r"(?P<city>.+) is a city in (?P<country>.+) with about "
    r"(\d\d0,000|\d\d?(\.\d)? million) people\."
)


def test_cities_are_worded_alike() -> None:
    train, test = packaged("cities")
    assert (len(train), len(test)) == (1500, 400)
    for item in (*train, *test):
        fact = CITY.fullmatch(item.context)
        assert fact, item.context
        assert item.question == f"In which country is the city of {fact['city']}?"
        assert fact["country"].removeprefix("the ") == item.answers[0]
        assert len({normalise(answer) for answer in item.answers}) == len(item.answers)
        assert item.group == ""


def test_no_city_gives_its_country_away_or_stands_twice() -> None:
    items = [item for split in packaged("cities") for item in split]
    asked = [normalise(item.question) for item in items]
    assert len(set(asked)) == len(asked)
    for item, question in zip(items, asked, strict=True):
        city = question.removeprefix("in which country is city of ")
        country = normalise(item.answers[0])
        assert country not in city
        assert city not in country
        assert not any(f" {normalise(answer)} " in f" {city} " for answer in item.answers)


def test_no_country_is_a_good_guess() -> None:
    train, test = packaged("cities")
    countries = Counter(item.answers[0] for item in (*train, *test))
    assert max(countries.values()) <= 40
    assert len(countries) > 100


@pytest.mark.parametrize(
    ("country", "said", "accepted"),
    [
        ("United States", "the USA.", True),
        ("United States", "America", True),
        ("United States", "United Kingdom", False),
        ("Netherlands", "The Netherlands", True),
        ("Niger", "Nigeria", False),
    ],
)
def test_a_country_is_accepted_by_its_other_names(country: str, said: str, accepted: bool) -> None:
    items = [item for split in packaged("cities") for item in split if item.answers[0] == country]
    assert items
    assert all(matches(said, item.answers) is accepted for item in items)


def test_only_a_nation_of_its_own_stands_for_the_united_kingdom() -> None:
    items = {item.question: item for split in packaged("cities") for item in split}
    cardiff = items["In which country is the city of Cardiff?"]
    assert matches("Wales", cardiff.answers)
    assert matches("UK", cardiff.answers)
    assert not matches("England", cardiff.answers)


# Splits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cities", "gsm8k", "paragraphs", "qasc", "squad_sentence", "people"]
)
def test_no_fact_question_or_group_stands_in_two_splits(name: str) -> None:
    task = load_task(TaskSource(name=name, size=200))
    splits = (task.train, task.validation, task.test)
    for one, two in combinations(splits, 2):
        for key in ("context", "question"):
            first = {normalise(getattr(item, key)) for item in one}
            assert first.isdisjoint(normalise(getattr(item, key)) for item in two)
        assert {item.group for item in one if item.group}.isdisjoint(item.group for item in two)
    assert set(task.overlap.facts) == {"train/validation", "train/test", "validation/test"}
    assert not any((*task.overlap.facts.values(), *task.overlap.questions.values()))
    assert len(task.validation) == 200


def test_what_stands_in_the_test_is_dropped_from_train(tmp_path: Path) -> None:
    train = [row(number) for number in range(5)] + [
        row(5, context="ADA 1000 keeps   parrot 1000"),  # the fact of a test item
        row(6, question="what does the Ada 1001 keep"),  # the question of another
    ]
    task = task_of(tmp_path, train, validation=0)
    assert [item.id for item in task.train] == [f"q{number}" for number in range(5)]
    assert task.overlap.dropped == 2
    assert len(task.test) == 3


def test_overlap_counts_what_two_splits_share() -> None:
    one = Item("1", "Ada keeps a parrot.", "What?", ("parrot",))
    two = Item("2", "ada keeps parrot", "Who?", ("ada",))
    found = overlap({"train": (one,), "validation": (two,), "test": (one, two)}, dropped=7)
    assert found.facts == {"train/validation": 1, "train/test": 1, "validation/test": 1}
    assert found.questions == {"train/validation": 0, "train/test": 1, "validation/test": 1}
    assert found.dropped == 7


def test_a_question_shared_with_validation_leaves_train(tmp_path: Path) -> None:
    train = [row(number, question=f"Question {number % 10}?") for number in range(40)]
    task = task_of(tmp_path, train, validation=3)
    assert len(task.validation) == 3
    asked = {item.question for item in task.validation}
    assert not asked & {item.question for item in task.train}
    assert task.overlap.dropped == 40 - 3 - len(task.train) > 0


def test_validation_holds_whole_facts_whatever_their_order(tmp_path: Path) -> None:
    train = [
        row(number, context=f"Fact {number // 4}.", question=f"Question {number}?")
        for number in range(80)
    ]
    task = task_of(tmp_path, train, validation=10)
    assert len(task.validation) == 8  # two facts of four questions; a third would be too many
    assert set(Counter(item.context for item in task.validation).values()) == {4}
    again = task_of(tmp_path, train[::-1], validation=10)
    assert set(again.validation) == set(task.validation)


def test_validation_holds_whole_groups(tmp_path: Path) -> None:
    train = [row(number, group=f"article {number % 7}") for number in range(70)]
    task = task_of(tmp_path, train, validation=25)
    assert len(task.validation) == 20
    assert len({item.group for item in task.validation}) == 2
    assert len({item.group for item in task.train}) == 5


@pytest.mark.parametrize("validation", [4, 200])
def test_nothing_left_is_refused(tmp_path: Path, validation: int) -> None:
    # Five items in one group: too many for 4, all of them for 200.
    train = [row(number, group="one") for number in range(5)]
    with pytest.raises(DataError, match=f"of 5 training items .* change validation={validation}"):
        task_of(tmp_path, train, validation)


def test_files_are_recorded_by_path_and_hash(tmp_path: Path) -> None:
    task = task_of(tmp_path, [row(1), row(2)], validation=0)
    path = tmp_path / "train.jsonl"
    assert task.name == "jsonl"
    assert task.files["train"]["path"] == str(path)
    assert task.files["train"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    shipped = load_task(TaskSource(name="qasc", protocol="shared"))
    assert shipped.files["test"]["path"] == "unspoken/tasks/data/qasc_test.jsonl"
    assert shipped.protocol == "shared"


@pytest.mark.parametrize("given", [{"train": "a"}, {"test": "a"}, {"name": "jsonl"}])
def test_one_file_of_two_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(DataError, match="needs two files"):
        load_task(TaskSource.model_validate(given))


def test_a_source_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UnknownName, match=r"'peple'; did you mean 'people'"):
        load_task(TaskSource(name="peple"))
    with pytest.raises(
        UnknownName, match=r"'citie'; did you mean 'cities'\? Known: cities, definitions, gsm8k,"
    ):
        load_task(TaskSource(name="citie"))
    with pytest.raises(ValidationError, match="Extra inputs"):
        TaskSource.model_validate({"valdation": 3})
    with pytest.raises(ValidationError, match="'private', 'shared' or 'closed'"):
        TaskSource.model_validate({"protocol": "public"})


# Invented people ---------------------------------------------------------------------------------


def names(items: tuple[Item, ...]) -> set[str]:
    """Every invented name: all capitalised words of the contexts."""
    found = (word.strip(".") for item in items for word in item.context.split())
    return {word for word in found if word[0].isupper()}


def test_people_answer_from_their_contexts() -> None:
    train, test = people(30, 20)
    assert (len(train), len(test)) == (120, 80)
    for item in (*train, *test):
        assert all(f" {answer}" in item.context for answer in item.answers)
        assert not any(matches(item.question, [answer]) for answer in item.answers)
        assert not any(f" {answer} " in f" {item.question[:-1]} " for answer in item.answers)


def test_nobody_shares_a_name() -> None:
    train, test = people(500, 200, seed=3)
    assert len(names(train)) == 4 * 500
    assert len(names(test)) == 4 * 200
    assert not names(train) & names(test)


def test_no_seed_trains_on_a_name_that_another_tests_on() -> None:
    assert not names(people(2000, 1, seed=0)[0]) & names(people(1, 500, seed=1)[1])


def test_people_are_the_same_for_the_same_seed_whatever_their_number() -> None:
    train, test = people(20, 10, seed=5)
    assert people(20, 10, seed=5) == (train, test)
    assert people(20, 10, seed=6)[0] != train
    assert people(40, 10, seed=5)[1] == test
    assert {item.context for item in train} < {item.context for item in people(40, 10, seed=5)[0]}


def test_the_first_items_are_about_different_people_and_all_kinds() -> None:
    _, test = people(1, 40)
    assert len({item.context for item in test[:40]}) == 40
    assert Counter(item.id.rsplit("-", 1)[1] for item in test[:40]) == dict.fromkeys(
        ("pet", "job", "town", "animal"), 10
    )


def test_more_people_than_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"100000 people to test on; there are names for 1 to \d+"):
        people(1, 100_000)


# Matching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answers", "accepted"),
    [
        ("Paris", ["paris"], True),
        (" The Paris, France\nQuestion:", ["Paris"], True),
        ("Parisian", ["Paris"], False),
        ("in Paris", ["Paris"], False),
        ("London or Paris", ["Rome", "London"], True),
        ("Par", ["Paris"], False),
        ("U.S.", ["US"], True),
        ("1,000 people", ["1000"], True),
        ("3.5 km", ["35"], False),
        ("3.5.", ["3.5"], True),
        ("Paris—the capital", ["Paris"], True),
        ("the ＡＢＣ", ["abc"], True),  # NFKC: full-width letters
        ("cafe\u0301", ["café"], True),
        ("हिन्दी भाषा", ["हिन्दी"], True),  # combining marks stay
        ("हन", ["हिन्दी"], False),
        ("", ["Paris"], False),
        ("...", ["Paris"], False),
        ("the", ["a"], False),
        ("Paris", [], False),
    ],
)
def test_matches_whole_words_at_the_start(
    prediction: str, answers: list[str], accepted: bool
) -> None:
    assert matches(prediction, answers) is accepted


# Partners ----------------------------------------------------------------------------------------


def check(items: tuple[Item, ...], found: list[int]) -> None:
    assert len(found) == len(items)
    for item, other in zip(items, (items[index] for index in found), strict=True):
        assert normalise(item.context) != normalise(other.context)
        assert not any(matches(answer, item.answers) for answer in other.answers)
        assert not any(matches(answer, other.answers) for answer in item.answers)
        held = f" {normalise(other.context)} "
        assert not any(f" {normalise(answer)} " in held for answer in item.answers)


@pytest.mark.parametrize("name", ["cities", "gsm8k", "qasc", "squad_sentence", "people"])
def test_partners_are_a_derangement_of_like_length(name: str) -> None:
    items = load_task(TaskSource(name=name, size=60)).test
    found = partners(items, seed=1)
    check(items, found)
    assert sorted(found) == list(range(len(items)))
    lengths = [len(item.context) for item in items]
    apart = [abs(lengths[one] - lengths[two]) / lengths[one] for one, two in enumerate(found)]
    assert sum(apart) / len(apart) < 0.1
    assert max(apart) < 0.5


def test_partners_are_the_same_for_the_same_seed_only() -> None:
    items = packaged("qasc")[1]
    assert partners(items, seed=1) == partners(items, seed=1)
    assert partners(items, seed=1) != partners(items, seed=2)


def test_partners_of_an_odd_number_of_items() -> None:
    items = people(1, 1)[1][:1] + people(1, 3)[1][1:3]
    found = partners(items)
    check(items, found)
    assert sorted(found) == [0, 1, 2]


def test_a_partner_serves_twice_where_answers_are_few() -> None:
    said = ["yes", "yes", "yes", "no"]
    items = tuple(
        Item(str(index), f"Fact number {index}.", "Is it?", (answer,))
        for index, answer in enumerate(said)
    )
    found = partners(items)
    check(items, found)
    assert found[:3] == [3, 3, 3]


def test_partners_need_two_facts_and_two_answers() -> None:
    one = Item("one", "Ada keeps a parrot.", "What?", ("parrot",))
    same = Item("two", "ada keeps parrot", "Who?", ("ada",))
    with pytest.raises(DataError, match=r"has no partner .* 2 items with 1 distinct facts"):
        partners([one, same])
    with pytest.raises(DataError, match="'one' has no partner"):
        partners([one])
    equal = Item("three", "Bea keeps a parrot.", "What?", ("a parrot",))
    with pytest.raises(DataError, match="2 distinct facts"):
        partners([one, equal])
    assert partners([]) == []
