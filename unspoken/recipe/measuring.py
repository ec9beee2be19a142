"""The studies that a recipe lists, ready to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unspoken.engines import ending_engines
from unspoken.errors import RecipeError, unknown
from unspoken.recipe.config import Recipe
from unspoken.recipe.parts import Part
from unspoken.recipe.registry import studies, study, study_names
from unspoken.recipe.study import Study, StudyReport

__all__ = ["Measurement", "measurements"]


@dataclass(frozen=True)
class Measurement:
    """A study, the recipe that lists it, and the settings that it has there."""

    study: Study
    recipe: Recipe
    settings: Part

    @property
    def out(self) -> Path:
        """The folder that the study writes to."""
        return self.recipe.out

    def run(self) -> StudyReport:
        """Measure, and write the results to `out`. Results that are there already are reused."""
        with ending_engines():
            return self.study.run(self.recipe, self.settings)


def measurements(recipe: Recipe, name: str | None = None) -> list[Measurement]:
    """The studies of a recipe in its order, or the one of that name.

    Raises `RecipeError` if the recipe does not list it, and `UnknownName` if it is not registered.
    """
    listed = recipe.studies
    if not listed:
        raise RecipeError(
            f"the recipe lists no studies, so there is nothing to measure; {_remedy(recipe)}"
        )
    if name is not None and name not in study_names():
        raise unknown("study", name, listed, "The recipe lists these.")
    if name is not None and name not in listed:
        raise RecipeError(
            f"the recipe lists no study {name!r}, but {', '.join(listed)}; name one of these, or "
            f"add {name} to its studies"
        )
    wanted = listed if name is None else (name,)
    return [Measurement(study(one), recipe, listed[one]) for one in wanted]


def _remedy(recipe: Recipe) -> str:
    kind = recipe.kind_name()
    fitting = [one.name for one in studies() if one.kind == kind]
    if not fitting:
        return f"a recipe of kind {kind!r} can only be trained"
    return f"below `studies` a recipe of kind {kind!r} may list: {', '.join(fitting)}"
