"""The deranged control (a mismatched message): whose context an item gets instead of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

from unspoken.errors import DataError
from unspoken.tasks.items import Item
from unspoken.tasks.matching import begins, normalise

__all__ = ["partners"]


def partners(items: Sequence[Item], seed: int = 0) -> list[int]:
    """For each item the index of another, whose context is the wrong one: the deranged control.

    Partners have contexts of similar length and different facts. Neither one's answer is accepted
    for the other, and the partner's context does not hold the item's answer by chance. Each item is
    used once, unless that is impossible. The same seed gives the same partners.
    Raises `DataError` if an item has no partner, as with fewer than two distinct facts.
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
                begins(one, two) or begins(two, one)
                for one, two in product(answers[item], answers[other])
            )
        )

    # Each item starts with its own context. An item whose context does not fit yet swaps with the
    # nearest in length if the swap fits both sides. So no item loses a good partner.
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


def _outwards(order: Sequence[int], place: int) -> Iterator[int]:
    """The entries of an order around a place, the nearest first."""
    for step in range(1, len(order)):
        if place + step < len(order):
            yield order[place + step]
        if place >= step:
            yield order[place - step]
