"""What a recipe may say about usable bits."""

from __future__ import annotations

from pydantic import Field

from unspoken.recipe.parts import Part

__all__ = ["InformationSettings"]


class InformationSettings(Part):
    """Usable bits: on how many items. At most log2 of that many bits; 32 items take about a minute.

    samples: notes that the sender writes about each item for the text estimator.
    """

    items: int = Field(default=64, ge=2)
    samples: int = Field(default=1, ge=0)
