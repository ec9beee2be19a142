"""What a folder of results holds: the reports of all studies, read back from their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unspoken.errors import DataError
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
    left, and for a file that is no JSON or not of this version.
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is no JSON: {error}; run the command again that wrote it"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no results; run the command again that wrote it")
    return TypeAdapter(dict[str, Any]).validate_python(content)


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
