"""What a recipe may say about edges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unspoken.recipe.parts import Part, Stage

__all__ = ["BudgetSettings", "EdgesSettings", "GraphSettings"]


class BudgetSettings(Part):
    """The most that edges may cost for an item: how many, wire bytes, or positions to read."""

    most: float = Field(gt=0)
    unit: Literal["edges", "bytes", "positions"] = "edges"


class GraphSettings(Part):
    """A sparse graph over latent edges, see `EdgeGates`: each receiver keeps `senders` edges.

    training: its batches have two items or more, which are compared with each other. validation:
    the items that choose the best graph.
    """

    senders: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    training: Stage
    validation: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _rows_to_compare(self) -> GraphSettings:
        if self.training.batch_size < 2 or not self.training.steps:
            raise ValueError("a graph is learned in 1 step or more, of batch_size 2 or more")
        return self


class EdgesSettings(Part):
    """Which edges of a pipeline matter, which are kept under a budget, and which a graph learns.

    items: of the validation split, for attribution and pruning.
    """

    items: int = Field(default=64, ge=2)
    budget: BudgetSettings | None = None
    graph: GraphSettings | None = None
