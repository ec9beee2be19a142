"""Results recomputed: what a folder's results were made by, run anew with the same seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from unspoken.errors import DataError, RecipeError, UnknownName
from unspoken.recipe.config import Recipe, RelayRecipe
from unspoken.recipe.loading import recipe_of
from unspoken.results.reading import Recorded, read_results

__all__ = ["run_again"]


def run_again(folder: Path, out: Path) -> None:
    """Run the recipes that are kept among the results of `folder`, all into `out`.

    Nothing that was trained, answered or scored before is reused, so `out` must not be there yet.
    Raises `DataError` and `RecipeError` before anything runs.
    """
    if out.exists():
        raise DataError(
            f"{out} is there already, and what stands in it would be reused; name a new folder"
        )
    for run in [_run(found, folder, out) for found in read_results(folder)]:
        run()


def _run(found: Recorded, folder: Path, out: Path) -> Callable[[], object]:
    study, recipe = found.study, _recipe(found, folder)
    if not isinstance(recipe, study.measures):
        raise RecipeError(
            f"`unspoken {study.command}` does not run a recipe of kind {recipe.kind_name()!r}"
        )
    return partial(study.run, _elsewhere(recipe, out))


def _recipe(found: Recorded, folder: Path) -> Recipe:
    notes, command = found.report.notes, found.study.command
    if "recipe" not in notes:
        raise RecipeError(
            f"the results of `unspoken {command}` in {folder} keep no recipe, so they were made by "
            "an older version or from Python; run the command again with a recipe"
        )
    try:
        return recipe_of(notes["recipe"])
    except (ValidationError, UnknownName) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecipeError(
            f"the recipe kept by `unspoken {command}` in {folder} is not of this version: "
            f"{told}; run the command again with a recipe"
        ) from error


def _elsewhere(recipe: Recipe, out: Path) -> Recipe:
    trained = {"trained": None} if isinstance(recipe, RelayRecipe) else {}
    return recipe.model_copy(update={"out": out, **trained})
