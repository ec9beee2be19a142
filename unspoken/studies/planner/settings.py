"""What recipes of a diffusion planner may say."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from unspoken.recipe.config import Recipe, RelayRecipe
from unspoken.recipe.parts import CanvasSettings, ModelSource, Part, Stage
from unspoken.tasks import TaskSource

__all__ = ["PlannerExecutorRecipe", "PlannerRecipe", "PlannerSettings"]


class PlannerSettings(Part):
    """A causal model becomes one that writes notes by diffusion, see `Denoised`.

    mask: the token that stands for a mask, one that texts do not use. shift: whether a position
    still predicts the next one, as in the causal model. canvas: lengths of canvases, in turn.
    Without training steps the sender is used as it is, and must be a diffusion model.
    """

    mask: str = "<empty_output>"
    shift: bool = True
    canvas: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32,), min_length=1)
    training: Stage
    validation: int = Field(default=64, ge=1)


class PlannerRecipe(Recipe):
    """Teach a causal model to write notes by diffusion."""

    kind: Literal["planner"]
    sender: ModelSource
    task: TaskSource
    planner: PlannerSettings
    seed: int = 0
    out: Path


class PlannerExecutorRecipe(RelayRecipe):
    """Compare what a diffusion planner says in words and in states, beside a causal planner.

    planner: how the sender is taught to plan, before anything is compared. causal: the other
    planner, whose arms carry its name; it reads the fact, and writes as `prompts` say. sweep: a
    setting of `planning` to its values: {tokens: [16, 64], steps: [4, 16]}. Every combination
    is compared beside `planning`, with a projector of its own.
    """

    kind: Literal["planner_executor"]  # pyright: ignore[reportIncompatibleVariableOverride]
    planner: PlannerSettings
    causal: ModelSource
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict[str, tuple[Any, ...]]
    )

    def swept(self) -> dict[str, CanvasSettings]:
        """The ways to plan of the sweep, by what is changed: `tokens=16, steps=4`."""
        found: dict[str, CanvasSettings] = {}
        for values in product(*self.sweep.values()) if self.sweep else ():
            changed = dict(zip(self.sweep, values, strict=True))
            label = ", ".join(f"{key}={value}" for key, value in changed.items())
            found[label] = CanvasSettings(**{**self.planning.model_dump(), **changed})
        return found

    @model_validator(mode="after")
    def _sweepable(self) -> PlannerExecutorRecipe:
        try:
            longest = max(one.tokens for one in (self.planning, *self.swept().values()))
        except ValidationError as error:
            told = error.errors()[0]
            raise ValueError(f"sweep.{told['loc'][0]}: {told['msg']}") from error
        if self.planner.training.steps and longest > max(self.planner.canvas):
            raise ValueError(
                f"plans of {longest} tokens are asked for, and the planner is taught no canvas "
                f"longer than {max(self.planner.canvas)}; add {longest} to planner.canvas"
            )
        return self

    @model_validator(mode="after")
    def _has_an_oracle(self) -> PlannerExecutorRecipe:
        if "full-text" not in self.channels:
            raise ValueError("channels must name full-text: it is the oracle plan")
        return self
