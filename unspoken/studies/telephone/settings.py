"""What a recipe of the telephone game may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unspoken.recipe.config import RelayRecipe

__all__ = ["TelephoneRecipe"]


class TelephoneRecipe(RelayRecipe):
    """The telephone game: facts go `hops` times over each channel, restated at every hop."""

    kind: Literal["telephone"]  # pyright: ignore[reportIncompatibleVariableOverride]
    hops: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _playable(self) -> TelephoneRecipe:
        self.check_private("whoever sees the fact needs no message about it")
        return self
