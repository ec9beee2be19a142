"""What a recipe may say about the telephone game."""

from __future__ import annotations

from pydantic import Field

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import Part

__all__ = ["TelephoneSettings", "check_playable"]


class TelephoneSettings(Part):
    """The telephone game: facts go `hops` times over each channel, restated at every hop."""

    hops: int = Field(default=4, ge=1)


def check_playable(recipe: RelayRecipe, settings: TelephoneSettings) -> None:
    """Raise `ValueError` if the receiver sees the fact."""
    recipe.check_private("a receiver that sees the fact needs no message about it")
