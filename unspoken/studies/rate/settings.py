"""What a recipe may say about rate and distortion."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import Part, ProjectorSettings
from unspoken.wire import Packing

__all__ = ["RateSettings", "check_sweep", "swept"]


class RateSettings(Part):
    """Sweep the length and precision of messages, and settings of the projector, trained for each.

    lengths: tokens of text, first positions of vectors and caches. packs: how whole messages of
    vectors and caches are packed. sweep: a setting of `projector` to its values:
    {layers: [[0], [6]], vectors: [4, 16]}. items: how many are scored for usable bits.
    """

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16)
    packs: tuple[Packing, ...] = ()
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict[str, tuple[Any, ...]])
    items: int = Field(default=64, ge=2)


def swept(projector: ProjectorSettings, key: str, value: Any) -> ProjectorSettings:
    """The projector's settings with one of them changed."""
    return type(projector).model_validate({**projector.model_dump(), key: value})


def check_sweep(recipe: RelayRecipe, settings: RateSettings) -> None:
    """Raise `ValueError` if the recipe's projector does not take a setting of the sweep."""
    for key, values in settings.sweep.items():
        for value in values:
            try:
                swept(recipe.projector, key, value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(f"sweep.{key} to {value!r}: {reason}") from error
