"""Recipes as files: YAML, merged with key=value from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from unspoken.errors import RecipeError, UnknownName, unknown
from unspoken.recipe.config import Recipe
from unspoken.recipe.files import UNREADABLE, find_recipe
from unspoken.recipe.registry import recipe_class, recipe_kinds

__all__ = ["kept", "load_recipe", "recipe_of"]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and put `key=value` overrides on top. Raises `RecipeError`, `UnknownName`.

    A recipe with `base: other.yaml` continues another one that stands beside it.
    """
    path = find_recipe(name)
    try:
        merged = _with_base(path)
        for override in overrides:
            if override.startswith("projector="):
                _make_room(merged, OmegaConf.from_dotlist([override]))
            merged.merge_with_dotlist([override])  # unlike a merge, it reaches into lists
        content = OmegaConf.to_container(merged, resolve=True)
    except UNREADABLE as error:
        told = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be read with {list(overrides)}: {told}") from error
    try:
        return recipe_of(TypeAdapter(dict[str, Any]).validate_python(content))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'kind'}: {e['msg']}" for e in error.errors()]
        raise RecipeError(
            f"{path}: " + "; ".join(lines) + ". See its remarks for what each setting means"
        ) from error
    except UnknownName as error:
        raise RecipeError(f"{path}: kind: {error}") from error


def recipe_of(content: Mapping[str, Any]) -> Recipe:
    """A recipe from its settings. Raises `UnknownName` for its kind, and `ValidationError`."""
    kind = str(content.get("kind"))
    found = recipe_class(kind)
    if found is None:
        raise unknown("kind of recipe", kind, recipe_kinds())
    return found.model_validate(content)


def kept(recipe: Recipe) -> dict[str, Any]:
    """A recipe with all its settings, as a note among the results that it led to."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True)}


def _with_base(path: Path) -> Any:
    content: Any = OmegaConf.load(path)
    if not isinstance(content, DictConfig):
        raise ValueError("a recipe is a mapping of settings, as those that ship are")
    base = content.pop("base", None)
    if not base:
        return content
    below = _with_base(path.with_name(base))
    _make_room(below, content)
    return OmegaConf.merge(below, content)


def _make_room(below: Any, content: Any) -> None:
    """Take out the projector of `below` if `content` has one of another kind: it shares nothing."""
    kinds = [OmegaConf.select(one, "projector.kind") for one in (below, content)]
    if kinds[1] not in (None, kinds[0]):
        below.pop("projector", None)
