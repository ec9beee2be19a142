"""What a recipe of rate and distortion may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import ProjectorSettings
from unspoken.wire import Packing

__all__ = ["RateRecipe"]


class RateRecipe(RelayRecipe):
    """Sweep the length and precision of messages, and settings of the projector, trained anew.

    lengths: tokens of text, first positions of vectors and caches. packs: how whole messages of
    vectors and caches travel. sweep: a setting of `projector` to its values: {layers: [[0], [6]],
    vectors: [4, 16]}.
    """

    kind: Literal["rate"]  # pyright: ignore[reportIncompatibleVariableOverride]
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16)
    packs: tuple[Packing, ...] = ()
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict[str, tuple[Any, ...]])

    def swept(self, key: str, value: Any) -> ProjectorSettings:
        """The projector's settings with one of them changed."""
        return type(self.projector).model_validate({**self.projector.model_dump(), key: value})

    @model_validator(mode="after")
    def _sweepable(self) -> RateRecipe:
        for key, values in self.sweep.items():
            for value in values:
                try:
                    self.swept(key, value)
                except ValidationError as error:
                    told = error.errors()[0]["msg"]
                    raise ValueError(f"sweep.{key} to {value!r}: {told}") from error
        return self
