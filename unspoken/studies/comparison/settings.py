"""What a recipe may say about its comparison."""

from __future__ import annotations

from pydantic import Field

from unspoken.recipe.parts import Part

__all__ = ["ComparisonSettings"]


class ComparisonSettings(Part):
    """bits: on how many items usable bits are measured, for one more column; null for none."""

    bits: int | None = Field(default=None, ge=2)
