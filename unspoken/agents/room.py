"""Whether an item fits into what a model reads, before anything is read."""

from __future__ import annotations

import torch

from unspoken.agents.roles import Fields, Role
from unspoken.errors import ContextTooLong
from unspoken.layout import lay_out
from unspoken.protocols import Model
from unspoken.types import Document, Prompt, Text, size_of

__all__ = ["check_room"]


def check_room(model: Model, role: Role, fields: Fields, prompt: Prompt) -> None:
    """Raise `ContextTooLong` if a row of a prompt is longer than the model reads.

    The error names the longest text among the fields that the role reads.
    """
    limit = model.spec.positions
    for n in range(prompt.batch if limit is not None else 0):
        count = _count(model, prompt.row(n), limit or 0)
        if limit is not None and count > limit:
            raise ContextTooLong(
                f"item {n} makes a prompt of {count} positions, but {model.spec.name!r} reads at "
                f"most {limit}. Its longest text is {_longest(role, fields, n)}. Shorten it or "
                "choose a model with a longer context"
            )


def _count(model: Model, row: Prompt, limit: int) -> int:
    """The positions of a row, or 0 if it is so short that there is no need to count."""
    texts = [one.words[0] for one in row.segments if isinstance(one, Text)]
    if sum(len(words.encode()) for words in texts) <= limit:  # no token is shorter than a byte
        return 0
    parts = lay_out(row, model.encode, (), torch.device("cpu"))
    return sum(part.mask.shape[1] for part in parts)


def _longest(role: Role, fields: Fields, row: int) -> str:
    """The longest text of an item, as its reader would call it."""
    texts: list[tuple[int, str]] = []
    for name in role.fields:
        value = fields[name][row]
        documents = (Document("", value),) if isinstance(value, str) else value
        for one in documents:
            called = f"document {one.name!r} of its {name}" if one.name else f"its {name}"
            texts.append((size_of(one.text), f"{called}, with {len(one.text):,} characters"))
    return max(texts, default=(0, "the role's own"))[1]
