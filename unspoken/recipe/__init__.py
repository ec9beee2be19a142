"""Recipes: YAML files that say what to train, to run or to measure, and the studies that do it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unspoken.recipe.config import PipelineRecipe, Recipe, RelayRecipe
    from unspoken.recipe.files import find_recipe, recipe_names
    from unspoken.recipe.loading import load_recipe
    from unspoken.recipe.measuring import Measurement, measurements

_WHERE = {
    "Measurement": "measuring",
    "PipelineRecipe": "config",
    "Recipe": "config",
    "RelayRecipe": "config",
    "find_recipe": "files",
    "load_recipe": "loading",
    "measurements": "measuring",
    "recipe_names": "files",
}

__all__ = [
    "Measurement",
    "PipelineRecipe",
    "Recipe",
    "RelayRecipe",
    "find_recipe",
    "load_recipe",
    "measurements",
    "recipe_names",
]


def __getattr__(name: str) -> Any:  # files are listed and shown without torch
    if name not in _WHERE:
        raise AttributeError(f"module 'unspoken.recipe' has no attribute {name!r}")
    return getattr(import_module(f"unspoken.recipe.{_WHERE[name]}"), name)
