"""What an agent of a team reads: a window of the fact, some tokens at a place drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from unspoken.errors import DataError
from unspoken.protocols import Model
from unspoken.tasks import Item

__all__ = ["Window", "window"]

Window = tuple[str, int]
"""Its words, and how many tokens they are."""


def window(item: Item, tokens: int, agent: int, *, seed: int, model: Model) -> Window:
    """`tokens` tokens of the item's fact in a row, from a place that agent and seed draw.

    The whole fact if it is no longer. A place where the window would hold no word is drawn again.
    Raises `DataError` if the tokenizer does not tell where its tokens end.
    """
    ids, ends = model.encode(item.context)
    if -1 in ends:
        raise DataError(
            f"the tokenizer of {model.spec.name!r} does not tell where tokens end, and a team "
            "reads windows of tokens; choose a model with a fast tokenizer"
        )
    if len(ids) <= tokens:
        return item.context, len(ids)
    places = list(range(len(ids) - tokens + 1))
    Random(f"{seed} {agent} {item.id}").shuffle(places)
    begins = (0, *ends)
    found = (item.context[begins[at] : ends[at + tokens - 1]].strip() for at in places)
    words = next((words for words in found if words), item.context)
    return words, tokens


def windows(
    items: Sequence[Item], tokens: int, agent: int, *, seed: int, model: Model
) -> list[Window]:
    """A window of each item."""
    return [window(item, tokens, agent, seed=seed, model=model) for item in items]
