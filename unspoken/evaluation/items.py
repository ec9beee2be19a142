"""The items that are asked, and what a pipeline is asked about each."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from unspoken.errors import DataError
from unspoken.tasks import Item, Task
from unspoken.types import FieldValue

__all__ = ["chosen", "query", "sample"]


def query(item: Item) -> dict[str, FieldValue]:
    """What a pipeline is asked about an item. The roles decide which agent reads what."""
    return {"question": item.question, "context": item.context, **item.fields}


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """`limit` items, drawn by seed; all of them without a limit."""
    drawn = Random(seed).sample(range(len(items)), min(limit or len(items), len(items)))
    return [items[n] for n in sorted(drawn)]


def chosen(task: Task, items: int, limit: int | None, seed: int) -> list[Item]:
    """N of the test items that `sample` draws with this limit and seed. Raises `DataError`."""
    drawn = sample(sample(task.test, limit, seed), items, seed)
    if items < 2 or len(drawn) < 2:
        raise DataError(
            f"bits need two items or more to tell apart, got {items} of {len(drawn)}; "
            "raise the number of items"
        )
    return drawn
