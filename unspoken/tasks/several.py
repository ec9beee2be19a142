"""Several texts read at once, of which one question asks about one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unspoken.errors import DataError
from unspoken.tasks.items import Item
from unspoken.tasks.matching import normalise

__all__ = ["several"]


def several(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Disjoint groups of `count` items as one item each: all their texts, and one question.

    The first group asks about its first text, the second about its second, and so on in turn. Of
    items with one text the first counts. Items that fill no group are dropped. A split without
    items stays empty. Raises `DataError` for fewer than `count` texts, and for items with further
    fields, because only contexts are joined.

    >>> pair = [Item(str(n), f"Room {n} is red.", f"What is room {n}?", ("red",)) for n in (1, 2)]
    >>> several(pair, 2)[0].context
    'Room 1 is red. Room 2 is red.'
    """
    if odd := next((item for item in items if item.fields), None):
        raise DataError(
            f"together={count} joins contexts, but item {odd.id!r} has fields "
            f"{sorted(odd.fields)}; leave them out, or ask items one by one"
        )
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(normalise(item.context), item)
    distinct = list(first.values())
    if 0 < len(distinct) < count:
        raise DataError(
            f"together={count} needs that many texts in each split, but one has {len(distinct)}; "
            "give more items, or a smaller number"
        )
    groups = [distinct[n : n + count] for n in range(0, len(distinct) - count + 1, count)]
    return tuple(_one(group, n % count) for n, group in enumerate(groups))


def _one(group: Sequence[Item], asked: int) -> Item:
    """All texts of a group, with the question about one of them."""
    return replace(group[asked], context=" ".join(item.context for item in group), group="")
