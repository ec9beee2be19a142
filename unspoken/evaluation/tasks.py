"""Tasks: facts that a sender reads, questions that a receiver answers, apart by construction.

No fact (a context, normalised), no question and, where items have one, no group of the training
items stands in validation; no fact and no question in the test. What had to be left out for that
is counted in `Overlap`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Annotated, Literal, TypedDict
from unicodedata import category
from unicodedata import normalize as unicode_form

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from unspoken.errors import DataError, unknown
from unspoken.files import sha256

__all__ = [
    "Item",
    "Origin",
    "Overlap",
    "Protocol",
    "Task",
    "TaskSource",
    "load_jsonl",
    "load_task",
    "matches",
    "normalise",
    "packaged",
    "partners",
    "people",
]

Protocol = Literal["private", "shared"]
"""Private: only the sender reads the context. Shared: the receiver reads it too."""

_PACKAGED = ("qasc", "squad_sentence")
_KNOWN = (*_PACKAGED, "people", "jsonl")
_TEST_PEOPLE = 200
_MARKS = re.compile(r"(?!(?<=\d)\.(?=\d))[^\w\s]|_")
_EXAMPLE = (
    '{"id": "q1", "context": "Ada keeps a parrot.", "question": "What does Ada keep?", '
    '"answers": ["a parrot"]}'
)


@dataclass(frozen=True, slots=True)
class Item:
    """One question: what the sender reads, what the receiver is asked, what is accepted."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    group: str = ""


class Origin(TypedDict):
    """Where a split was read from: the path, and the SHA-256 of the file in hex."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """Distinct questions and facts that two splits share, by pair ("train/test", ...).

    `dropped` counts training items left out because their fact or question stands in the test or
    in validation; what is counted by pair is what remained after that.
    """

    questions: Mapping[str, int]
    facts: Mapping[str, int]
    dropped: int


@dataclass(frozen=True)
class Task:
    """Three splits and where they come from; `files` is empty for generated items."""

    name: str
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    files: Mapping[str, Origin]
    overlap: Overlap
    protocol: Protocol = "private"


class TaskSource(BaseModel):
    """Which task, as a recipe says it; a file for `train` and one for `test` imply `jsonl`.

    `validation` is the most items that are held out of `train`, and never more than half of it.
    `size` is the number of people to train and validate on, four questions each; it and `seed`
    concern the task `people` only.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "qasc"
    train: Path | None = None
    test: Path | None = None
    validation: int = Field(default=200, ge=0)
    protocol: Protocol = "private"
    seed: int = 0
    size: int = Field(default=1000, ge=1)


def load_task(source: TaskSource) -> Task:
    """Read or generate a task and keep its splits apart.

    Raises `UnknownName` for a task that does not exist, `DataError` for a file that cannot be
    read, for one file of two, and when nothing is left to train or validate on.

    >>> load_task(TaskSource(name="people", size=100)).overlap.dropped
    0
    """
    name = "jsonl" if source.train or source.test else source.name
    given, test, origins = _read(name, source)
    apart = _apart(given, test)
    validation = _held_out(apart, min(source.validation, len(apart) // 2))
    held_out = {item.id for item in validation}
    train = _apart([item for item in given if item.id not in held_out], (*test, *validation))
    if not train or (source.validation and not validation):
        raise DataError(
            f"task {name!r}: of {len(given)} training items {len(validation)} are left to validate "
            f"and {len(train)} to train on, as no fact, question or group may stand in two splits; "
            f"give more distinct items, or change validation={source.validation}"
        )
    splits = {"train": train, "validation": validation, "test": test}
    overlap = _overlap(splits, dropped=len(given) - len(validation) - len(train))
    return Task(name, train, validation, test, origins, overlap, source.protocol)


def load_jsonl(path: Path) -> tuple[Item, ...]:
    """Read items, one JSON object a line. Blank lines are skipped.

    Raises `DataError` naming file and line when a line is no such object, when a text in it holds
    no word, or when its id stood before; and when the file is missing or has no items.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        reason = error.strerror
        raise DataError(f"cannot read {path}: {reason}; give a JSONL file of items") from error
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _item(line, f"{path}, line {number}")
        if item.id in items:
            raise DataError(
                f"{path}, line {number}: id {item.id!r} stands on an earlier line; "
                "give every item its own"
            )
        items[item.id] = item
    if not items:
        raise DataError(f"{path} holds no items; a line must look like {_EXAMPLE}")
    return tuple(items.values())


def packaged(name: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The training and test items of 'qasc' or 'squad_sentence', as they are in the package.

    Sources and licences: `unspoken/evaluation/data/README.md`. Raises `UnknownName`.
    """
    if name not in _PACKAGED:
        raise unknown("packaged task", name, _PACKAGED)
    return _packaged(name, "train")[0], _packaged(name, "test")[0]


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces, after Unicode NFKC.

    As the SQuAD evaluation script does it (Rajpurkar et al. 2016), except that an em dash parts
    words and a point between digits stays: 3.5 is not 35.

    >>> normalise("The  Ångström—a unit!")
    'ångström unit'
    """
    lower = unicode_form("NFKC", text).lower().replace("\N{EM DASH}", " ")
    # Combining marks are no letters to `re`, but belong to words: only P and S are struck out.
    kept = _MARKS.sub(lambda mark: "" if category(mark[0])[0] in "PS" else mark[0], lower)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def matches(prediction: str, answers: Iterable[str]) -> bool:
    """Whether a prediction starts with an accepted answer, whole words, both normalised.

    >>> matches("Paris, of course", ["the Paris"]), matches("Parisian", ["Paris"])
    (True, False)
    """
    given = normalise(prediction)
    return any(_begins(given, normalise(answer)) for answer in answers)


def partners(items: Sequence[Item], seed: int = 0) -> list[int]:
    """For each item the index of another, whose context is the wrong one: the deranged control.

    Partners have contexts of like length and different facts, neither one's answer is accepted for
    the other, and the partner's context does not hold the item's answer by chance. Each item is
    used once, except where that cannot be had. The same seed gives the same partners.
    Raises `DataError` when an item has no partner, as with fewer than two distinct facts.
    """
    draw = Random(seed)
    order = sorted(
        range(len(items)), key=lambda index: len(items[index].context) * draw.uniform(0.9, 1.1)
    )
    facts = [f" {normalise(item.context)} " for item in items]
    answers = [[normalise(answer) for answer in item.answers] for item in items]

    def wrong(item: int, other: int) -> bool:
        return (
            facts[item] != facts[other]
            and not any(f" {answer} " in facts[other] for answer in answers[item])
            and not any(
                _begins(one, two) or _begins(two, one)
                for one, two in product(answers[item], answers[other])
            )
        )

    # Everyone starts with the own context; whoever still has an unfit one swaps with the nearest
    # in length for whom the swap is right on both sides. So nobody's good partner is lost.
    found = list(range(len(items)))
    for place, item in enumerate(order):
        if wrong(item, found[item]):
            continue
        near = list(_outwards(order, place))
        for other in near:
            if wrong(item, found[other]) and wrong(other, found[item]):
                found[item], found[other] = found[other], found[item]
                break
        else:
            found[item] = next((other for other in near if wrong(item, other)), item)
        if found[item] == item:
            raise DataError(
                f"item {items[item].id!r} has no partner for the deranged control among "
                f"{len(items)} items with {len(set(facts))} distinct facts; "
                "give items with other facts and other answers, or switch that control off"
            )
    return found


_STARTS = (
    "Ba Be Bo Da De Do Fa Fe Fi Ga Ha Ka Ke La Le Li Ma Me Mi Na Ne Ni Pa Pe Ra Re Ro Sa Se Ta Te "
    "Va Ve Wi Za"
)
_MIDDLES = "la le li lo ma mi na ne no ra ri ro sa ta to va"
_ENDS = {
    "first": "den nel rik lin sha vik",
    "last": "berg ford man son stein worth",
    "town": "bury dale port wick stad mouth",
    "pet": "bo chu gi pi zu ky",
}
_ANIMALS = (
    "beetle canary cat dog donkey duck ferret frog goat goose hamster horse lizard llama monkey "
    "mouse parrot pig pigeon pony rabbit sheep snake spider tortoise turkey"
)
_JOBS = (
    "baker barber butcher carpenter chemist clerk cook dentist doctor driver farmer gardener "
    "judge lawyer miner nurse painter pilot plumber porter sailor singer tailor teacher"
)
_FACT = "{first} {last} from {town} keeps a {animal} called {pet} and works as a {job}."
_QUESTIONS = {
    "pet": "What is the pet of {first} {last} called?",
    "job": "What does {first} {last} work as?",
    "town": "Where is {first} {last} from?",
    "animal": "Which animal does {first} {last} keep?",
}


def people(n_train: int, n_test: int, seed: int = 0) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Invented people, four questions each: pet, job, town, animal. Returns train and test items.

    Nobody shares a first name, last name, town or pet's name with anybody, and a hash decides
    which names are the test's: no seed trains on a name that another seed tests on. Animals and
    jobs come from short lists, so a guess is right about once in 25. The first `n_test` test items
    are about different people, which keeps a limited sample independent.
    Raises `DataError` when more people are asked for than there are names.
    """
    return _people(n_train, "train", seed), _people(n_test, "test", seed)


def _people(count: int, split: str, seed: int) -> tuple[Item, ...]:
    names = {kind: _names(kind, split, seed) for kind in _ENDS}
    most = min(len(known) for known in names.values())
    if not 0 < count <= most:
        raise DataError(f"people: {count} people to {split} on; there are names for 1 to {most}")
    draw = Random(f"{split} people {seed}")
    known = [
        {kind: names[kind][index] for kind in names}
        | {"animal": draw.choice(_ANIMALS.split()), "job": draw.choice(_JOBS.split())}
        for index in range(count)
    ]
    kinds = tuple(_QUESTIONS)
    asked = (
        (index, person, kinds[(index + turn) % len(kinds)])
        for turn in range(len(kinds))
        for index, person in enumerate(known)
    )
    return tuple(
        Item(
            id=f"people-{split}-{seed}-{index}-{kind}",
            context=_FACT.format_map(person),
            question=_QUESTIONS[kind].format_map(person),
            answers=(person[kind],),
        )
        for index, person, kind in asked
    )


def _names(kind: str, split: str, seed: int) -> list[str]:
    """The names of a kind that belong to a split, one in five to the test, in the seed's order."""
    syllables = (_STARTS.split(), _MIDDLES.split(), _ENDS[kind].split())
    every = ("".join(parts) for parts in product(*syllables))
    held_out = split == "test"
    names = [name for name in every if (int(_digest(name), 16) % 5 == 0) == held_out]
    Random(f"{kind} {split} {seed}").shuffle(names)
    return names


def _said(text: str) -> str:
    if not normalise(text):
        raise ValueError("holds no word")
    return text


_Said = Annotated[str, AfterValidator(_said)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    context: _Said
    question: _Said
    answers: Annotated[tuple[_Said, ...], Field(min_length=1)]
    group: str = ""


def _item(line: bytes, where: str) -> Item:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join((*map(str, problem["loc"]), problem["msg"])) for problem in error.errors()
        )
        raise DataError(
            f"{where}: {wrong}. A line must look like {_EXAMPLE}, with a group if items belong "
            "together, and nothing else"
        ) from error
    return Item(read.id, read.context, read.question, read.answers, read.group)


def _read(
    name: str, source: TaskSource
) -> tuple[tuple[Item, ...], tuple[Item, ...], dict[str, Origin]]:
    """Training items, test items, and the files that they came from."""
    if name == "people":
        return *people(source.size, _TEST_PEOPLE, source.seed), {}
    if name == "jsonl":
        if source.train is None or source.test is None:
            raise DataError(
                f"a task of your own needs two files, got train={source.train}, "
                f"test={source.test}; give both, one item a line: {_EXAMPLE}"
            )
        train, trained = _loaded(source.train, str(source.train))
        test, tested = _loaded(source.test, str(source.test))
    elif name in _PACKAGED:
        (train, trained), (test, tested) = _packaged(name, "train"), _packaged(name, "test")
    else:
        raise unknown("task", name, _KNOWN)
    return train, test, {"train": trained, "test": tested}


def _packaged(name: str, split: str) -> tuple[tuple[Item, ...], Origin]:
    # The path is given within the package: results that quote it are the same on every machine.
    inside = f"evaluation/data/{name}_{split}.jsonl"
    with as_file(files("unspoken").joinpath(inside)) as path:
        return _loaded(path, f"unspoken/{inside}")


def _loaded(path: Path, shown: str) -> tuple[tuple[Item, ...], Origin]:
    return load_jsonl(path), Origin(path=shown, sha256=sha256(path))


def _held_out(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """At most `count` items: whole groups or whole facts, in the order of their hashes."""
    together: dict[str, list[Item]] = {}
    for item in items:
        key = f"group {item.group}" if item.group else f"fact {normalise(item.context)}"
        together.setdefault(key, []).append(item)
    chosen: list[Item] = []
    for key in sorted(together, key=_digest):
        if len(chosen) + len(together[key]) <= count:
            chosen.extend(together[key])
    return tuple(chosen)


def _apart(items: Iterable[Item], others: Iterable[Item]) -> tuple[Item, ...]:
    """The items whose fact and question both stand nowhere in the others."""
    facts, questions = _facts_and_questions(others)
    return tuple(
        item
        for item in items
        if normalise(item.context) not in facts and normalise(item.question) not in questions
    )


def _overlap(splits: Mapping[str, Iterable[Item]], dropped: int) -> Overlap:
    found = {split: _facts_and_questions(items) for split, items in splits.items()}
    facts: dict[str, int] = {}
    questions: dict[str, int] = {}
    for one, two in combinations(found, 2):
        facts[f"{one}/{two}"] = len(found[one][0] & found[two][0])
        questions[f"{one}/{two}"] = len(found[one][1] & found[two][1])
    return Overlap(questions, facts, dropped)


def _facts_and_questions(items: Iterable[Item]) -> tuple[set[str], set[str]]:
    pairs = [(normalise(item.context), normalise(item.question)) for item in items]
    return {fact for fact, _ in pairs}, {question for _, question in pairs}


def _begins(text: str, answer: str) -> bool:
    return bool(answer) and f"{text} ".startswith(f"{answer} ")


def _outwards(order: Sequence[int], place: int) -> Iterator[int]:
    """What stands in an order around a place, the nearest first."""
    for step in range(1, len(order)):
        if place + step < len(order):
            yield order[place + step]
        if place >= step:
            yield order[place - step]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
