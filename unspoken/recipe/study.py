"""A study: one measurement by recipe, its file, and how that is read back and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import TypeAdapter

from unspoken.evaluation.result import Result
from unspoken.recipe.parts import Part

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Study", "StudyReport", "Trained"]


@dataclass(frozen=True)
class Trained:
    """The result of training by recipe: what it is, its folder, and its number of parameters."""

    what: str
    folder: Path
    parameters: int


class StudyReport(Protocol):
    """The results of a study, for a terminal and for a file."""

    def table(self) -> Table:
        """The numbers."""
        ...

    def findings(self) -> list[str]:
        """What follows from them, a sentence each."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The content of the study's file."""
        ...


def _every(content: Mapping[str, Any]) -> bool:
    return True


def _nothing(report: Result) -> str:
    return ""


def _fits(recipe: Any, settings: Any) -> None:
    pass


@dataclass(frozen=True)
class Study:
    """A measurement, as the registry keeps it.

    name: as in the registry and below `studies` in a recipe. title: the question that it answers.
    kind: the kind of recipe that may list it. settings: the class of the settings below its name.
    run: measures by a recipe and settings, writes its file into the folder of the recipe, and
    returns a report. check: raises `ValueError` if recipe and settings do not fit. It is called
    when the recipe is loaded, before any model is.

    file: the JSON file that it writes. report: the class that the file is read back as. owns:
    whether the content of such a file is this study's, if several write files of one name.

    section: the module that shows a report, imported when a page is made. Its `sections(report,
    folder)` gives sections of `unspoken.page`, and its `summary(report)`, if it has one, a sentence
    that comes first.

    Three more fields are for a study that needs more than the pair of its recipe. recipe: a class
    of recipes that comes with it, and can only be trained. train: trains by such a recipe, or by
    one that lists the study, in place of the projector. prepare: makes, from a recipe, settings and
    `lora`, the pipelines that every study of this recipe measures, see
    `unspoken.relay.pipelines.prepared`.
    """

    name: str
    title: str
    kind: Literal["relay", "pipeline"]
    settings: type[Part]
    run: Callable[[Any, Any], StudyReport]
    file: str
    report: type[Result]
    check: Callable[[Any, Any], None] = _fits
    owns: Callable[[Mapping[str, Any]], bool] = _every
    section: str | None = None
    recipe: type[Any] | None = None
    train: Callable[[Any], Trained] | None = None
    prepare: Callable[..., Any] | None = None

    def read(self, content: Mapping[str, Any]) -> Result:
        """A report from the content of its file. Raises pydantic's `ValidationError`."""
        return TypeAdapter(self.report).validate_python(content)

    def sections(self, report: Result, folder: Path) -> Iterable[Any]:
        """What a page shows of a report. `folder` is the folder of its file."""
        return () if self.section is None else import_module(self.section).sections(report, folder)

    def summary(self, report: Result) -> str:
        """A sentence for the top of a page on which this study comes first, or none."""
        if self.section is None:
            return ""
        return str(getattr(import_module(self.section), "summary", _nothing)(report))
