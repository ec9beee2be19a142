"""The task `mixture`: many kinds of text in equal parts, so that what is trained travels.

A kind is a source of text with questions. Some are packaged tasks. Others are cut out of packaged
paragraphs: by source, whole or the sentence that holds the answer. `people` and `words` are
invented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import as_file, files
from itertools import islice
from random import Random
from typing import NamedTuple

from unspoken.errors import unknown
from unspoken.identity import digest
from unspoken.tasks.items import Item, load_jsonl
from unspoken.tasks.matching import normalise
from unspoken.tasks.people import people
from unspoken.tasks.splits import apart, divided

__all__ = ["KINDS", "MIXED", "PACKAGED", "Kind", "mixture", "packaged_file", "read_kind"]

Splits = tuple[tuple[Item, ...], tuple[Item, ...]]
"""Training and test items."""


class Kind(NamedTuple):
    """A kind of text: how its items are made, from how many are wanted to train and a seed.

    files: the packaged files that it is made of, without their ending.
    """

    read: Callable[[int, int], Splits]
    files: tuple[str, ...] = ()


PACKAGED = (
    "cities",
    "definitions",
    "gsm8k",
    "handbook",
    "paragraphs",
    "qasc",
    "squad_sentence",
    "verses",
)


def mixture(
    kinds: Sequence[str], each: int, validation: int, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """Items to train, validate and test on, of all kinds.

    Of every kind at most `each` training items, drawn by the seed; an equal share of `validation`;
    all test items. Raises `UnknownName` for a kind that does not exist.
    """
    read = {kind: read_kind(kind, each, seed) for kind in kinds}
    test = tuple(item for _, tested in read.values() for item in tested)
    train: list[Item] = []
    held: list[Item] = []
    for kind, (items, _) in read.items():
        kept, some = divided(apart(items, test), validation // len(kinds))
        train += Random(f"{seed} {kind}").sample(kept, min(each, len(kept)))
        held += some
    for part in (train, held):  # the first ones are of all kinds
        Random(seed).shuffle(part)
    return apart(train, held), tuple(held), test


def read_kind(kind: str, each: int, seed: int) -> Splits:
    """The training and test items of one kind, at least `each` to train if they are invented."""
    if kind not in KINDS:
        raise unknown("kind of text", kind, list(KINDS))
    return KINDS[kind].read(each, seed)


def packaged_file(stem: str) -> str:
    """The path of a packaged file, relative to the package."""
    return f"tasks/data/{stem}.jsonl"


def _packaged(name: str) -> Splits:
    return _file(f"{name}_train"), _file(f"{name}_test")


@cache
def _file(stem: str) -> tuple[Item, ...]:
    with as_file(files("unspoken").joinpath(packaged_file(stem))) as path:
        return load_jsonl(path)


# -- cut out of the packaged paragraphs ------------------------------------------------------------

_TESTED = 10  # one group of so many is for the test
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z0-9])")
_WORDS = (6, 45)  # of a sentence


@cache
def _paragraphs(source: str) -> Splits:
    items = [item for item in _file("paragraphs_all") if item.id.startswith(f"{source}-")]
    tested = [int(digest(item.group), 16) % _TESTED == 0 for item in items]
    train, test = (
        tuple(item for item, held in zip(items, tested, strict=True) if held is test)
        for test in (False, True)
    )
    return train, test


@cache
def _sentences(source: str) -> Splits:
    train, test = (tuple(filter(None, map(_sentence, part))) for part in _paragraphs(source))
    return train, test


def _sentence(item: Item) -> Item | None:
    """The item with the one sentence that holds its first answer, None if that is not clear."""
    low, high = _WORDS
    held = [one for one in _SENTENCE.split(item.context) if item.answers[0] in one]
    if len(held) != 1 or not low <= len(held[0].split()) <= high:
        return None
    answers = tuple(one for one in item.answers if one in held[0])
    return replace(item, id=f"{item.id}-sentence", context=held[0], answers=answers)


# -- invented --------------------------------------------------------------------------------------

_TEST_PEOPLE, _TEST_WORDS, _ROW = 50, 200, (12, 40)


def _people(each: int, seed: int) -> Splits:
    return people(-(-each // 4), _TEST_PEOPLE, seed)  # four questions each


def _rows_of_words(each: int, seed: int) -> Splits:
    """Words in random order. Asked is the one that comes after another."""
    facts = (item.context for item in _packaged("qasc")[0])
    known = sorted({word for fact in facts for word in normalise(fact).split() if len(word) > 3})
    train, test = (
        tuple(islice(_rows(Random(f"{seed} words {split}"), known, split), count))
        for split, count in (("train", each), ("test", _TEST_WORDS))
    )
    return train, test


def _rows(draw: Random, known: Sequence[str], split: str) -> Iterator[Item]:
    number = 0
    while True:
        row = draw.sample(known, draw.randint(*_ROW))
        at = draw.randrange(len(row) - 1)
        question = f"Which word comes after “{row[at]}”?"
        yield Item(f"words-{split}-{number}", " ".join(row), question, (row[at + 1],))
        number += 1


def _fixed(read: Callable[[str], Splits], source: str, each: int, seed: int) -> Splits:
    return read(source)


def _cut(read: Callable[[str], Splits], source: str) -> Kind:
    return Kind(partial(_fixed, read, source), ("paragraphs_all",))


def _whole(name: str) -> Kind:
    return Kind(partial(_fixed, _packaged, name), (f"{name}_train", f"{name}_test"))


KINDS: Mapping[str, Kind] = {
    **{name: _whole(name) for name in PACKAGED},
    "squad_paragraph": _cut(_paragraphs, "squad"),
    "reddit_paragraph": _cut(_paragraphs, "reddit"),
    "reddit_sentence": _cut(_sentences, "reddit"),
    "review_paragraph": _cut(_paragraphs, "amazon_reviews"),
    "review_sentence": _cut(_sentences, "amazon_reviews"),
    "people": Kind(_people),
    "words": Kind(_rows_of_words, ("qasc_train",)),
}
"""Every kind of text by name."""

MIXED = tuple(name for name in KINDS if name != "paragraphs")
"""The kinds of a mixture that names none. `paragraphs` has some of them in one."""
