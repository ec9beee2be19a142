"""What a recipe of reuse may say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from unspoken.recipe.config import PipelineRecipe
from unspoken.recipe.parts import Part
from unspoken.tasks import TaskSource

__all__ = ["PoolSettings", "ReuseRecipe"]


class PoolSettings(Part):
    """What every pool of a comparison gets, see `AnchorPool`; `budget` in bytes."""

    budget: int = Field(default=2 << 30, ge=0)
    probe: float = Field(default=0.1, ge=0, le=1)
    tolerance: float = Field(default=0.1, gt=0)


class ReuseRecipe(PipelineRecipe):
    """Run one pipeline densely and with pools of caches, a ladder each, on the same items."""

    kind: Literal["reuse"]  # pyright: ignore[reportIncompatibleVariableOverride]
    executor: Literal["here"] = "here"  # pyright: ignore[reportIncompatibleVariableOverride]
    task: TaskSource
    ladders: tuple[Literal["exact", "shifted", "anchored", "kvcomm"], ...] = ("exact", "shifted")
    pool: PoolSettings = PoolSettings()
    limit: int | None = Field(default=50, ge=2)
    batch_size: int = Field(default=1, ge=1)
    seed: int = 0
    out: Path
