"""Results computed again by the recipes that are kept beside them, with the same seed."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from unspoken.errors import DataError, RecipeError, UnknownName
from unspoken.recipe.config import Recipe, RelayRecipe
from unspoken.recipe.loading import recipe_of
from unspoken.recipe.measuring import Measurement, measurements
from unspoken.results.reading import Recorded, read_results

__all__ = ["run_again"]


def run_again(folder: Path, out: Path) -> None:
    """Run the recipes that are kept among the results of `folder`, all into `out`.

    Nothing that was trained, answered or scored before is reused, so `out` must not exist yet.
    Raises `DataError` and `RecipeError` before anything runs.
    """
    if out.exists():
        raise DataError(
            f"{out} is there already, and its content would be reused; name a new folder"
        )
    for one in [_measurement(found, folder, out) for found in read_results(folder)]:
        one.run()


def _measurement(found: Recorded, folder: Path, out: Path) -> Measurement:
    recipe = _elsewhere(_recipe(found, folder), out)
    (measurement,) = measurements(recipe, found.study.name)
    return measurement


def _recipe(found: Recorded, folder: Path) -> Recipe:
    notes, name = found.report.notes, found.study.name
    if "recipe" not in notes:
        raise RecipeError(
            f"the results of the study {name!r} in {folder} keep no recipe, so they were made by "
            "an older version or from Python; measure again with a recipe"
        )
    try:
        return recipe_of(notes["recipe"])
    except (ValidationError, UnknownName, RecipeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecipeError(
            f"the recipe that the study {name!r} kept in {folder} is not of this version: "
            f"{reason}; measure again with a recipe of this version"
        ) from error


def _elsewhere(recipe: Recipe, out: Path) -> Recipe:
    trained = {"trained": None} if isinstance(recipe, RelayRecipe) else {}
    return recipe.model_copy(update={"out": out, **trained})
