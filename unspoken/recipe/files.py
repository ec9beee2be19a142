"""The files of recipes: where they are, what they continue, and their first sentences.

Nothing here reads a recipe's settings, so this module imports fast.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unspoken.errors import RecipeError, UnknownName, unknown

__all__ = [
    "UNREADABLE",
    "base_of",
    "chain",
    "find_recipe",
    "first_sentence",
    "listed_studies",
    "recipe_names",
    "recipe_text",
]

UNREADABLE = (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, RecursionError)
"""The errors that a file raises if it is not a recipe."""


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that ships. Raises `UnknownName`.

    Only a bare name, with or without `.yaml`, means one that ships. A path is that path.
    """
    given = Path(name)
    if given.is_file():
        return given
    for path in _shipped():
        if name in (path.name, path.stem):
            return path
    if given.name == name:
        raise unknown("recipe", name, recipe_names(), "A path to a YAML file works too.")
    raise _no_file(name)


def _no_file(name: str) -> UnknownName:
    """A path without a file. The file that is meant may lie beside it, or ship by its last part."""
    given = Path(name)
    beside = [path.name for path in given.parent.glob("*.yaml")]
    if near := get_close_matches(given.name, beside, n=1):
        hint = f"did you mean {str(given.with_name(near[0]))!r}?"
    elif near := get_close_matches(given.stem, recipe_names(), n=1):
        hint = f"did you mean {near[0]!r}, a recipe that ships? Those are named without a folder"
    else:
        hint = f"recipes that ship are named without a folder: {', '.join(recipe_names())}"
    return UnknownName(f"unknown recipe {name!r}: there is no such file; {hint}")


def chain(name: str) -> list[Path]:
    """The file of a recipe and of those it continues. Raises `RecipeError`, `UnknownName`."""
    found = [find_recipe(name)]
    while base := _content(found[-1]).get("base"):
        below = base_of(found[-1], base)
        if any(below.resolve() == one.resolve() for one in found):
            raise RecipeError(f"{found[-1]}: base: {base} continues this recipe; name another one")
        found.append(below)
    return found


def base_of(path: Path, base: Any) -> Path:
    """The file that a recipe continues: one in the same folder. Raises `RecipeError`."""
    if not isinstance(base, str) or Path(base).name != base or base == ".." or "\0" in base:
        raise RecipeError(f"{path}: base: {base!r} is no name of a file in the same folder")
    return path.with_name(base)


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in _shipped())


def listed_studies(name: str) -> list[str]:
    """The studies that the file of a recipe lists. Raises `RecipeError`, `UnknownName`."""
    listed = (_content(path).get("studies") for path in chain(name))
    return [str(study) for study in next(filter(None, listed), ())]


def recipe_text(path: Path) -> str:
    """What is written in a recipe. Raises `RecipeError` for a file that is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}; save it as UTF-8") from error


def first_sentence(path: Path) -> str:
    """What a recipe does: the first sentence of the comment at its top."""
    remark: list[str] = []
    for line in recipe_text(path).split("\n"):
        words = line.removeprefix("#").strip()
        if not line.startswith("#") or not words:
            break
        remark.append(words)
    return re.split(r"(?<=[.?!])\s", " ".join(remark))[0]


def _content(path: Path) -> dict[str, Any]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except UNREADABLE as error:
        raise RecipeError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of settings, as those that ship are")
    return cast(dict[str, Any], content)


def _shipped() -> list[Path]:
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "recipes", here.parent / "recipes"):  # installed, or a repository
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    return []
