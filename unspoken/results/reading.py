"""What a folder of results holds: the reports of all studies, read back from their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unspoken import kept
from unspoken.errors import DataError, StorageError
from unspoken.evaluation.result import Result
from unspoken.recipe.registry import studies
from unspoken.recipe.study import Study

__all__ = ["Recorded", "read_results"]


@dataclass(frozen=True)
class Recorded:
    """What a study has left in a folder."""

    study: Study
    report: Result


def read_results(folder: Path) -> list[Recorded]:
    """The report of every study that has left one, in the order of the registry.

    Files of studies that are not installed here are skipped. Raises `DataError` if nothing is
    left, and for a file that is damaged or not of this version.
    """
    known = list(studies())
    found: list[Recorded] = []
    for study in known:
        path = folder / study.file
        content = _content(path)
        if content is not None and study.owns(content):
            found.append(Recorded(study, _read(study, content, path)))
    if not found:
        names = list(dict.fromkeys(study.file for study in known))
        raise DataError(
            f"{folder} holds no {', '.join(names[:-1])} or {names[-1]}; give the folder that "
            "`unspoken measure` wrote to"
        )
    return found


def _content(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return kept.read_json(path)
    except StorageError as error:
        raise DataError(f"{error}; run the command again that wrote it") from error


def _read(study: Study, content: dict[str, Any], path: Path) -> Result:
    try:
        return study.read(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not of this version: {place}: {first['msg']}; run the command again that "
            "wrote it"
        ) from error
