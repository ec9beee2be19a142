"""Recipes: YAML files that say what to train, to run or to measure, and the studies that do it."""

from unspoken.recipe.config import PipelineRecipe, ProjectorRecipe, Recipe, RelayRecipe
from unspoken.recipe.loading import find_recipe, load_recipe, recipe_names

__all__ = [
    "PipelineRecipe",
    "ProjectorRecipe",
    "Recipe",
    "RelayRecipe",
    "find_recipe",
    "load_recipe",
    "recipe_names",
]
