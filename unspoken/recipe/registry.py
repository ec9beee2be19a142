"""Studies by name: our own, and those that other packages register as entry points.

A package adds a study with one line in its pyproject.toml, and nothing changes here:

    [project.entry-points."unspoken.studies"]
    gossip = "gossip.study:STUDY"

Its recipes are read, and its results are read back, shown and run again, as ours are.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points

from unspoken.errors import RecipeError, unknown
from unspoken.recipe.config import PipelineRecipe, ProjectorRecipe, Recipe, RelayRecipe
from unspoken.recipe.study import Study

__all__ = ["recipe_class", "recipe_kinds", "studies", "study", "study_names"]

_OWN = {
    "comparison": "unspoken.studies.comparison:STUDY",
    "reuse": "unspoken.studies.reuse:STUDY",
    "information": "unspoken.studies.information:STUDY",
    "rate": "unspoken.studies.rate:STUDY",
    "teams": "unspoken.studies.teams:STUDY",
    "telephone": "unspoken.studies.telephone:STUDY",
    "edges": "unspoken.studies.edges:STUDY",
    "planner": "unspoken.studies.planner:STUDY",
}

_SHARED: tuple[type[Recipe], ...] = (ProjectorRecipe, RelayRecipe, PipelineRecipe)
"""Recipes of no study alone."""


def study_names() -> list[str]:
    """Every study that can be run here, ours first; a page shows them in this order."""
    return list(_known())


def study(name: str) -> Study:
    """A study by name. Raises `UnknownName`, and `RecipeError` if its package cannot be imported.

    >>> study("telephone").file
    'telephone.json'
    """
    known = _known()
    if name not in known:
        raise unknown("study", name, known)
    return _imported(name, known[name])


def studies() -> Iterator[Study]:
    """Every study, each imported when it comes."""
    for name, place in _known().items():
        yield _imported(name, place)


def _imported(name: str, place: str) -> Study:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"the study {name!r} cannot be imported from {place}: {error}; install what it needs, "
            "or uninstall its package"
        ) from error
    if not isinstance(found, Study):
        raise RecipeError(
            f"the study {name!r} is to be a Study, but {place} is of {type(found).__name__}; "
            "name a Study, or uninstall its package"
        )
    return found


def recipe_class(kind: str) -> type[Recipe] | None:
    """The class of recipes of this kind, if there is one."""
    return next((one for one in _recipes() if one.kind_name() == kind), None)


def recipe_kinds() -> list[str]:
    """Every kind of recipe that can be read here."""
    return sorted({one.kind_name() for one in _recipes()})


def _recipes() -> Iterator[type[Recipe]]:
    yield from _SHARED
    for one in studies():
        yield from one.recipes


def _known() -> dict[str, str]:
    foreign = {point.name: point.value for point in entry_points(group="unspoken.studies")}
    return {**_OWN, **{name: place for name, place in foreign.items() if name not in _OWN}}
