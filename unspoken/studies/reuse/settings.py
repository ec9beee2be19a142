"""What a recipe may say about reuse."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unspoken.recipe.parts import Part

__all__ = ["PoolSettings", "ReuseSettings"]


class PoolSettings(Part):
    """What every pool of a comparison gets, see `AnchorPool`; `budget` in bytes."""

    budget: int = Field(default=2 << 30, ge=0)
    probe: float = Field(default=0.1, ge=0, le=1)
    tolerance: float = Field(default=0.1, gt=0)


class ReuseSettings(Part):
    """Run one pipeline densely and with a pool of caches for each ladder, on the same items."""

    ladders: tuple[Literal["exact", "shifted", "anchored", "kvcomm"], ...] = ("exact", "shifted")
    pool: PoolSettings = PoolSettings()
