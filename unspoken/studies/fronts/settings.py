"""What a recipe may say of which channel pays."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import AnyProjector, Part

__all__ = ["FrontsSettings", "TrainedSource", "check_fronts"]

_Positive = Annotated[int, Field(ge=1)]


class TrainedSource(Part):
    """A trained channel by name, with its projector: {kind: embedding, vectors: 16}."""

    name: str
    projector: AnyProjector


class FrontsSettings(Part):
    """Which arms are asked besides the channels of the comparison, and how they are timed.

    notes: the most tokens of the notes that the sender writes. excerpts: how many first tokens of
    the text are passed on word for word, a rival that takes as little time as a cache. sentences:
    how many sentences are found by BM25 for the question. handoff: whether the receiver's own
    weights hand over their cache. trained: further channels that are trained as the recipe's
    projector is. asked: the channels of the comparison that use questions, though their sender
    reads none. timed: how many items are timed one by one. controls: how many items are also asked
    without a message, with another item's, and with constant vectors; null for all.
    """

    notes: tuple[_Positive, ...] = (16, 32, 64, 128)
    excerpts: tuple[_Positive, ...] = (64,)
    sentences: tuple[_Positive, ...] = (1, 2)
    handoff: bool = True
    trained: tuple[TrainedSource, ...] = ()
    asked: tuple[str, ...] = ("layers",)
    timed: int = Field(default=16, ge=1)
    controls: int | None = Field(default=None, ge=2)


def check_fronts(recipe: RelayRecipe, settings: FrontsSettings) -> None:
    """Raise `ValueError` unless the receiver has not read the text itself, and could read it."""
    recipe.check_private("a receiver that has read the text saves nothing by a message")
    if "full-text" not in recipe.compared.channels:
        raise ValueError("compares with the text word for word; add full-text to the channels")
    longest, most = max(settings.notes, default=0), recipe.prompts.note_tokens
    if longest > most:
        raise ValueError(
            f"has notes of {longest} tokens, but prompts.note_tokens={most} ends them earlier; "
            f"set prompts.note_tokens={longest}"
        )
