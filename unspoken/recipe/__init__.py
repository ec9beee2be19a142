"""Recipes: YAML files that say what to train, compare or run, and the code that does it."""

from unspoken.recipe.config import (
    EdgesRecipe,
    PipelineRecipe,
    PlannerExecutorRecipe,
    PlannerRecipe,
    PlanRecipe,
    ProjectorRecipe,
    RateRecipe,
    Recipe,
    RelayRecipe,
    ReuseRecipe,
    TelephoneRecipe,
)
from unspoken.recipe.loading import find_recipe, load_recipe, recipe_names

__all__ = [
    "EdgesRecipe",
    "PipelineRecipe",
    "PlanRecipe",
    "PlannerExecutorRecipe",
    "PlannerRecipe",
    "ProjectorRecipe",
    "RateRecipe",
    "Recipe",
    "RelayRecipe",
    "ReuseRecipe",
    "TelephoneRecipe",
    "find_recipe",
    "load_recipe",
    "recipe_names",
]
