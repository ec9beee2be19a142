"""Disjoint splits: no fact and no question is in two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from unspoken.identity import digest
from unspoken.tasks.items import Item
from unspoken.tasks.matching import normalise

__all__ = ["Overlap", "apart", "divided", "held_out", "overlap"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Distinct questions and facts that two splits share, by pair ("train/test", ...).

    `dropped` counts training items that were left out because their fact or question is in the
    test or in validation. The counts by pair are of what remained after that.
    """

    questions: Mapping[str, int]
    facts: Mapping[str, int]
    dropped: int


def held_out(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """At most `count` items: whole groups or whole facts, in the order of their hashes."""
    chosen: list[Item] = []
    for together in _together(items):
        if len(chosen) + len(together) <= count:
            chosen.extend(together)
    return tuple(chosen)


def divided(items: Sequence[Item], count: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Items to train on, and `count` items of other groups or facts, if there are as many.

    Groups are held out in the order of their hashes, and what is too much of the last one is in
    neither part.
    """
    held: list[Item] = []
    kept: list[Item] = []
    for together in _together(items):
        (held if len(held) < count else kept).extend(together)
    return tuple(kept), tuple(held[:count])


def _together(items: Sequence[Item]) -> list[list[Item]]:
    """Groups, or the items of one fact, in the order of their hashes."""
    found: dict[str, list[Item]] = {}
    for item in items:
        key = f"group {item.group}" if item.group else f"fact {normalise(item.context)}"
        found.setdefault(key, []).append(item)
    return [found[key] for key in sorted(found, key=digest)]


def apart(items: Iterable[Item], others: Iterable[Item]) -> tuple[Item, ...]:
    """The items whose fact and question are both in none of the others."""
    facts, questions = _facts_and_questions(others)
    return tuple(
        item
        for item in items
        if normalise(item.context) not in facts and normalise(item.question) not in questions
    )


def overlap(splits: Mapping[str, Iterable[Item]], dropped: int) -> Overlap:
    """Count what each pair of splits shares."""
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
