"""The page of a folder of results: the sections of all studies, and the facts of each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from unspoken.errors import DataError, MissingExtra
from unspoken.evaluation.result import Result
from unspoken.files import write_text
from unspoken.page import Facts, Page, Section, render
from unspoken.results.reading import Recorded, read_results
from unspoken.terminal import PlainConsole

__all__ = ["page_of", "refresh", "write_page"]


def write_page(folder: Path) -> Path:
    """Write report.html into a folder of results, whole or not at all. Raises `DataError`."""
    path, found = folder / "report.html", read_results(folder)
    try:
        text = render(page_of(found, folder))
    except DataError:
        raise
    except _ODD as error:
        raise DataError(
            f"{folder} holds results that cannot be shown ({type(error).__name__}: {error}); run "
            "the command again that wrote them"
        ) from error
    write_text(path, text)
    return path


_ODD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The errors of results without a digest that lack something, or hold something else."""


def refresh(folder: Path) -> Path | None:
    """`write_page` after a measurement, which must not fail for other files of the folder."""
    try:
        return write_page(folder)
    except (DataError, MissingExtra) as error:
        PlainConsole(stderr=True).print(f"no report.html is written: {error}")
        return None


def page_of(found: Sequence[Recorded], folder: Path) -> Page:
    """What the page shows. The study that comes first gives the title and the summary."""
    first = found[0]
    task, kept = first.report.task, all("recipe" in one.report.notes for one in found)
    place = quote(str(folder))
    return Page(
        title=first.study.title,
        task=str(task["name"]),
        protocol=str(task["protocol"]),
        summary=first.study.summary(first.report),
        stated=_stated(first.report),
        sections=_sections(found, folder),
        facts=tuple(Facts(one.study.name, tuple(_facts(one.report))) for one in found),
        again=f"unspoken report {place} --again {place}-again" if kept else "",
        seeds=" and ".join(sorted({str(one.report.seed) for one in found})),
    )


def _sections(found: Sequence[Recorded], folder: Path) -> tuple[Section, ...]:
    """The sections of all studies in their order, one for each key, then those marked `last`."""
    every: dict[str, Section] = {}
    for one in found:
        every |= {section.key: section for section in one.study.sections(one.report, folder)}
    return tuple(sorted(every.values(), key=lambda section: section.last))


def _stated(report: Result) -> tuple[tuple[str, str], ...]:
    """The facts under the title."""
    return (
        ("items", f"{report.task['items']} of the {report.task['split']} split"),
        ("seed", str(report.seed)),
        ("models", ", ".join(model["name"] for model in report.models)),
        ("date", str(report.machine.get("date", ""))),
    )


def _facts(report: Result) -> Iterator[tuple[str, str]]:
    task, machine = report.task, dict(report.machine)
    yield "date", str(machine.pop("date", "unknown"))
    yield "items", f"{task['items']} of the {task['split']} split of {task['name']}"
    yield "seed", str(report.seed)
    for model in report.models:
        yield model["name"], f"weights {model['fingerprint']}"
    yield from _apart(task)
    for split, file in task.get("files", {}).items():
        yield f"{split} file", f"{file['path']}, SHA-256 {file['sha256'][:16]}"
    yield "versions", _pairs(report.versions)
    yield "machine", _pairs(machine)
    for name, value in report.notes.items():
        if name != "recipe":
            yield name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)


def _apart(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the splits of the task share, where it was counted."""
    overlap = task.get("overlap", {})
    if "dropped" in overlap:
        yield "facts in two splits", _pairs(overlap["facts"])
        yield "questions in two splits", _pairs(overlap["questions"])
        yield "dropped for that", f"{overlap['dropped']} training items"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {'none' if value is None else value}" for name, value in values.items()
    )
