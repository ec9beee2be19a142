"""Studies by name: our own, and those that other packages register as entry points.

A package adds a study with one line in its pyproject.toml, and nothing changes here:

    [project.entry-points."unspoken.studies"]
    gossip = "gossip.study:STUDY"

Recipes may list it, and its results are read back, shown and run again, as those of ours are.
"""

from __future__ import annotations

from collections.abc import Iterator

from unspoken.errors import RecipeError
from unspoken.plugins import Registry
from unspoken.recipe.study import Study

__all__ = ["studies", "study", "study_names"]

_OWN = {
    "comparison": "unspoken.studies.comparison:STUDY",
    "reuse": "unspoken.studies.reuse:STUDY",
    "information": "unspoken.studies.information:STUDY",
    "rate": "unspoken.studies.rate:STUDY",
    "teams": "unspoken.studies.teams:STUDY",
    "telephone": "unspoken.studies.telephone:STUDY",
    "edges": "unspoken.studies.edges:STUDY",
    "planner": "unspoken.studies.planner:STUDY",
    "fronts": "unspoken.studies.fronts:STUDY",
}
_STUDIES = Registry("study", "unspoken.studies", _OWN)


def study_names() -> list[str]:
    """Every study that can be run here, ours first. A page shows them in this order."""
    return [*_OWN, *(name for name in _STUDIES.names() if name not in _OWN)]


def study(name: str) -> Study:
    """A study by name. Raises `UnknownName`, and `MissingExtra` if its package is not importable.

    >>> study("telephone").file
    'telephone.json'
    """
    found = _STUDIES.find(name)
    if not isinstance(found, Study):
        raise RecipeError(
            f"the study {name!r} has to be a Study, but what its package names is of type "
            f"{type(found).__name__}; name a Study, or uninstall its package"
        )
    return found


def studies() -> Iterator[Study]:
    """Every study, each imported when it comes."""
    yield from map(study, study_names())
