"""Recipes: YAML files that say what to train, to run or to measure, and the studies that do it."""

from unspoken.recipe.config import PipelineRecipe, Recipe, RelayRecipe
from unspoken.recipe.loading import find_recipe, load_recipe, recipe_names
from unspoken.recipe.measuring import Measurement, measurements

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
