"""A study: one measurement by recipe, what it writes, and how that is read back and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class Study:
    """What the registry knows of a measurement.

    command: its word on the command line. file: the JSON that it writes into the folder of a
    recipe; owns: whether the content of such a file is this study's, where several write the same;
    report: the class that the content is read back as.

    measures: the recipes that `run` takes; run: measures, writes the file and returns a report.
    recipes: the classes of recipes that come with this study.
    section: `module:function` for the page, sections(report, folder); imported when a page is made.
    """

    name: str
    command: str
    file: str
    report: type[Result]
    measures: type[Recipe]
    run: Callable[[Any], Result]
    recipes: tuple[type[Recipe], ...] = ()
    owns: Callable[[Mapping[str, Any]], bool] = _every
    section: str | None = None

    def read(self, content: Mapping[str, Any]) -> Result:
        """A report from the content of its file. Raises pydantic's `ValidationError`."""
        return TypeAdapter(self.report).validate_python(content)

    def sections(self, report: Result, folder: Path) -> Sequence[Any]:
        """What the page shows of a report; `folder` holds what stands beside its file."""
        if self.section is None:
            return ()
        module, _, name = self.section.partition(":")
        return getattr(import_module(module), name)(report, folder)
