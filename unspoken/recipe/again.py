"""Results recomputed: what a folder's results were made by, run anew with the same seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unspoken.errors import DataError, RecipeError
from unspoken.page import Found
from unspoken.recipe.config import (
    EdgesRecipe,
    PlannerExecutorRecipe,
    PlanRecipe,
    RateRecipe,
    Recipe,
    RelayRecipe,
    ReuseRecipe,
    TelephoneRecipe,
)
from unspoken.studies.comparison.recipe import run_relay, run_reuse
from unspoken.studies.edges.recipe import run_edges
from unspoken.studies.information.recipe import run_worth
from unspoken.studies.planner.recipe import run_planner_executor
from unspoken.studies.rate.recipe import run_rate
from unspoken.studies.teams.recipe import run_plan
from unspoken.studies.telephone.recipe import run_telephone

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
    found = Found.read(folder).recorded
    runs = [
        _run(command, _elsewhere(_recipe(folder, command, one.notes), out))
        for command, one in found.items()
    ]
    for run in runs:
        run()


def _recipe(folder: Path, command: str, notes: dict[str, Any]) -> Recipe:
    if "recipe" not in notes:
        raise RecipeError(
            f"the results of `unspoken {command}` in {folder} keep no recipe, so they were made by "
            "an older version or from Python; run the command again with a recipe"
        )
    try:
        return TypeAdapter[Recipe](Recipe).validate_python(notes["recipe"])
    except ValidationError as error:
        raise RecipeError(
            f"the recipe kept by `unspoken {command}` in {folder} is not of this version: "
            f"{error.errors()[0]['msg']}; run the command again with a recipe"
        ) from error


def _elsewhere(recipe: Recipe, out: Path) -> Recipe:
    trained = {"trained": None} if isinstance(recipe, RelayRecipe) else {}
    return recipe.model_copy(update={"out": out, **trained})


def _run(command: str, recipe: Recipe) -> Callable[[], object]:
    match command, recipe:
        case "compare", ReuseRecipe():
            return partial(run_reuse, recipe)
        case "compare", PlannerExecutorRecipe():
            return partial(run_planner_executor, recipe)
        case "compare", RelayRecipe():
            return partial(run_relay, recipe)
        case "worth", RelayRecipe():
            return partial(run_worth, recipe)
        case "rate", RateRecipe():
            return partial(run_rate, recipe)
        case "plan", PlanRecipe():
            return partial(run_plan, recipe)
        case "telephone", TelephoneRecipe():
            return partial(run_telephone, recipe)
        case "edges", EdgesRecipe():
            return partial(run_edges, recipe)
        case _:
            raise RecipeError(f"`unspoken {command}` does not run a recipe of kind {recipe.kind!r}")
