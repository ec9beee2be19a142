"""A study: one measurement by recipe, what it writes, and how that is read back and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unspoken.evaluation.result import Result
from unspoken.recipe.config import Recipe

__all__ = ["Study"]


def _every(content: Mapping[str, Any]) -> bool:
    return True


def _nothing(report: Result) -> str:
    return ""


@dataclass(frozen=True)
class Study:
    """What the registry knows of a measurement.

    name: as in the registry; command: its word on the command line; title: the question that it
    answers. measures: the recipes that `run` takes; it measures, writes its file into the folder of
    the recipe, and returns a report. recipes: the classes of recipes that come with this study.

    file: the JSON that it writes; report: the class that this is read back as; owns: whether the
    content of such a file is this study's, where several write files of one name.

    section: the module that shows a report, imported when a page is made. Its `sections(report,
    folder)` gives sections of `unspoken.page`, and its `lead(report)`, if it has one, a sentence
    that comes first.
    """

    name: str
    command: str
    title: str
    measures: type[Recipe]
    run: Callable[[Any], Result]
    file: str
    report: type[Result]
    recipes: tuple[type[Recipe], ...] = ()
    owns: Callable[[Mapping[str, Any]], bool] = _every
    section: str | None = None

    def read(self, content: Mapping[str, Any]) -> Result:
        """A report from the content of its file. Raises pydantic's `ValidationError`."""
        return TypeAdapter(self.report).validate_python(content)

    def sections(self, report: Result, folder: Path) -> Iterable[Any]:
        """What a page shows of a report; `folder` holds what stands beside its file."""
        return () if self.section is None else import_module(self.section).sections(report, folder)

    def lead(self, report: Result) -> str:
        """A sentence for the top of a page on which this study comes first, or none."""
        if self.section is None:
            return ""
        return str(getattr(import_module(self.section), "lead", _nothing)(report))
