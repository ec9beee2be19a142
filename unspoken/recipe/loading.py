"""Recipes as files: YAML, merged with key=value from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from unspoken.errors import RecipeError, UnknownName, unknown
from unspoken.evaluation.freshness import note_recipe
from unspoken.recipe.config import PipelineRecipe, Recipe, RelayRecipe
from unspoken.recipe.files import UNREADABLE, base_of, find_recipe
from unspoken.recipe.moved import check_spelling
from unspoken.recipe.registry import studies

__all__ = ["kept", "load_recipe", "recipe_of"]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and put `key=value` overrides on top. Raises `RecipeError`, `UnknownName`.

    A recipe with `base: other.yaml` continues another one in the same folder. Its studies, and a
    projector of another kind, replace those of the other. All else is merged.
    """
    path = find_recipe(name)
    try:
        merged = _with_base(path)
        for override in overrides:
            _make_room(merged, OmegaConf.from_dotlist([override]), override.partition("=")[0])
            merged.merge_with_dotlist([override])  # unlike a merge, it reaches into lists
        content = OmegaConf.to_container(merged, resolve=True)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: cannot be read with {list(overrides)}: {reason}") from error
    try:
        return recipe_of(TypeAdapter(dict[str, Any]).validate_python(content))
    except ValidationError as error:
        lines = [_described(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        raise RecipeError(
            f"{path}: " + "; ".join(lines) + ". See its comments for what each setting means"
        ) from error
    except UnknownName as error:
        raise RecipeError(f"{path}: kind: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _described(place: str, reason: str) -> str:
    return f"{place}: {reason}" if place else reason.removeprefix("Value error, ")


def recipe_of(content: Mapping[str, Any]) -> Recipe:
    """A recipe from its settings.

    Raises `UnknownName` for its kind, `RecipeError` for settings of earlier versions, and
    `ValidationError`.
    """
    check_spelling(content)
    kind = str(content.get("kind"))
    for known in _recipe_classes():
        if known.kind_name() == kind:
            return known.model_validate(content)
    raise unknown("kind of recipe", kind, [known.kind_name() for known in _recipe_classes()])


def _recipe_classes() -> Iterator[type[Recipe]]:
    yield from (RelayRecipe, PipelineRecipe)
    for one in studies():
        if one.recipe is not None:
            yield one.recipe


def kept(recipe: Recipe) -> dict[str, Any]:
    """A recipe with all its settings, as a note in its results."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True)}


def _with_base(path: Path) -> Any:
    content: Any = OmegaConf.load(path)
    note_recipe(path)
    if not isinstance(content, DictConfig):
        raise ValueError("a recipe is a mapping of settings, as those that ship are")
    base = content.pop("base", None)
    if not base:
        return content
    below = _with_base(base_of(path, base))
    _make_room(below, content)
    return OmegaConf.merge(below, content)


def _make_room(below: Any, content: Any, key: str = "") -> None:
    """Take out of `below` what `content` replaces as a whole.

    These are its studies, and its projector if `content` has one of another kind, because kinds
    share no settings. key: the setting, if only one is set.
    """
    kinds = [OmegaConf.select(one, "projector.kind") for one in (below, content)]
    if key in ("", "projector") and kinds[1] not in (None, kinds[0]):
        below.pop("projector", None)
    if key in ("", "studies") and "studies" in content:
        below.pop("studies", None)
