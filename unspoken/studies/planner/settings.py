"""What recipes may say about a diffusion planner."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from unspoken.recipe.config import Recipe, RelayRecipe
from unspoken.recipe.parts import CanvasSettings, ModelSource, Part, Stage
from unspoken.tasks import TaskSource

__all__ = ["PlannerRecipe", "PlannerSettings", "TeachingSettings", "check_planners", "swept"]


class TeachingSettings(Part):
    """A causal model becomes one that writes notes by diffusion, see `Denoised`.

    mask: the token used as a mask, one that texts do not use. shift: whether a position
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
    teaching: TeachingSettings


class PlannerSettings(Part):
    """Compare the plans of a diffusion planner, in words and in states, with a causal planner's.

    teaching: how the sender is taught to plan, before anything is compared. causal: the other
    planner, whose arms carry its name; it reads the fact, and writes as `prompts` say. sweep: a
    setting of `planning` to its values: {tokens: [16, 64], steps: [4, 16]}. Every combination
    is compared with `planning`, and gets a separate projector.
    """

    teaching: TeachingSettings
    causal: ModelSource
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict[str, tuple[Any, ...]]
    )

    def recipe_for(self, recipe: RelayRecipe) -> PlannerRecipe:
        """How the sender of a relay is taught, as a separate recipe."""
        return PlannerRecipe(
            kind="planner",
            sender=recipe.pair.sender,
            task=recipe.task,
            teaching=self.teaching,
            seed=recipe.seed,
            out=recipe.out,
        )


def swept(recipe: RelayRecipe, settings: PlannerSettings) -> dict[str, CanvasSettings]:
    """The ways to plan of the sweep, by what is changed: `tokens=16, steps=4`."""
    found: dict[str, CanvasSettings] = {}
    for values in product(*settings.sweep.values()) if settings.sweep else ():
        changed = dict(zip(settings.sweep, values, strict=True))
        label = ", ".join(f"{key}={value}" for key, value in changed.items())
        found[label] = CanvasSettings(**{**recipe.planning.model_dump(), **changed})
    return found


def check_planners(recipe: RelayRecipe, settings: PlannerSettings) -> None:
    """Raise `ValueError` if a way to plan cannot be, or the oracle plan is not compared."""
    if recipe.engine != "transformers":
        raise ValueError(
            f"plans are compared in transformers, got engine={recipe.engine}; set "
            "engine=transformers"
        )
    try:
        longest = max(one.tokens for one in (recipe.planning, *swept(recipe, settings).values()))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"sweep.{first['loc'][0]}: {first['msg']}") from error
    if settings.teaching.training.steps and longest > max(settings.teaching.canvas):
        raise ValueError(
            f"plans have {longest} tokens, but the planner is taught no canvas longer "
            f"than {max(settings.teaching.canvas)}; add {longest} to teaching.canvas"
        )
    if "full-text" not in recipe.compared.channels:
        raise ValueError("comparison.channels must name full-text: it is the oracle plan")
    if others := recipe.studies.keys() - _BESIDE:
        raise ValueError(
            f"{', '.join(sorted(others))} would measure the sender before it was taught; list "
            "these studies in another recipe"
        )


_BESIDE = {"planner", "comparison", "information"}
"""The studies that measure the pipelines of both planners."""
