"""What a recipe may say about a team."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import ChannelSource, Part

__all__ = ["TeamsSettings", "Terms", "check_plannable"]


class Terms(Part):
    """What is calibrated and what may be spent, all in tokens.

    budgets: what one agent reads of the fact when beta is measured, growing; the last one should
    be longer than any fact. leaf: which of them senders read when fidelity and vote are measured.
    budget: what a plan may spend on facts and messages. window: how many positions of messages one
    receiver may read; by default what its model has left after the longest prompt.
    """

    budgets: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 8, 16, 64)
    leaf: int = 8
    budget: int = Field(default=64, ge=1)
    window: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _grows(self) -> Terms:
        if len(self.budgets) < 3 or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(
                f"budgets are three numbers or more in growing order, got {list(self.budgets)}"
            )
        if self.leaf not in self.budgets:
            raise ValueError(f"leaf is one of the budgets {list(self.budgets)}, got {self.leaf}")
        return self


class TeamsSettings(Part):
    """When a team pays: calibrate on the task, plan under a budget, and let three senders vote.

    lengths: tokens of text, first positions of vectors and caches. terms: what is calibrated and
    what may be spent.
    """

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 8)
    terms: Terms = Terms()


def check_plannable(recipe: RelayRecipe, settings: TeamsSettings) -> None:
    """Raise `ValueError` unless agents of one model read parts of a fact that it does not see."""
    recipe.check_private("its agents read parts of a fact that the receiver does not see")
    to_itself = [
        source if isinstance(source, str) else source.name
        for source in recipe.compared.channels
        if source == "oracle" or (isinstance(source, ChannelSource) and source.sender == "receiver")
    ]
    if to_itself and recipe.pair.sender != recipe.pair.receiver:
        raise ValueError(
            f"channels {to_itself} have the receiver's weights as sender, and a plan is about "
            "agents of one model; set pair.sender.model to pair.receiver.model, or leave them out"
        )
