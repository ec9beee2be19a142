"""What a page says and shows, made of what a folder holds; the template only lays it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from unspoken.evaluation.bits import Information
from unspoken.page import tables
from unspoken.page.drawings import accuracies, differences, information, rate_chart
from unspoken.page.examples import Disagreements, disagreements
from unspoken.page.found import Found, Recorded
from unspoken.page.pictures import inlined
from unspoken.page.plot import Chart, Forest
from unspoken.page.studies import Study, studies
from unspoken.page.tables import Table
from unspoken.studies.comparison.report import Compared

__all__ = ["Page"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison has to show."""

    summary: str
    worth: Forest
    accuracy: Forest
    arms: Table
    costs: Table | None
    examples: Disagreements | None
    gates: str


@dataclass(frozen=True)
class Bits:
    """Usable bits, drawn and as a table; findings are what the table does not say."""

    forest: Forest
    table: Table
    n: int
    ceiling: float
    findings: Sequence[str]


@dataclass(frozen=True)
class Rate:
    """Rate and distortion, drawn and as a table."""

    chart: Chart
    table: Table
    findings: Sequence[str]


@dataclass(frozen=True)
class Reuse:
    """Ways to read as a table, and what their pools showed."""

    table: Table
    findings: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """What has to be known of one run to repeat it, as names and values."""

    command: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """All that one page shows; what was not measured is None.

    again: the command that recomputes every number, empty if a run kept no recipe.
    """

    title: str
    task: str
    protocol: str
    stated: tuple[tuple[str, str], ...]
    comparison: Comparison | None
    bits: Bits | None
    rate: Rate | None
    reuse: Reuse | None
    studies: tuple[Study, ...]
    facts: tuple[Facts, ...]
    again: str
    seeds: str

    @classmethod
    def of(cls, found: Found) -> Page:
        recorded = found.recorded
        first = next(iter(recorded.values()))
        kept = all("recipe" in one.notes for one in recorded.values())
        again = f"{quote(str(found.folder))}"
        return cls(
            title=_title(found),
            task=str(first.task["name"]),
            protocol=str(first.task["protocol"]),
            stated=_stated(first),
            comparison=_comparison(found, found.compared) if found.compared else None,
            bits=_bits(found),
            rate=Rate(rate_chart(found.rate), tables.rates(found.rate), found.rate.findings())
            if found.rate
            else None,
            reuse=Reuse(tables.ways(found.reuse), found.reuse.findings()) if found.reuse else None,
            studies=tuple(studies(found)),
            facts=tuple(_facts(command, one) for command, one in recorded.items()),
            again=f"unspoken report {again} --again {again}-again" if kept else "",
            seeds=" and ".join(sorted({str(one.seed) for one in recorded.values()})),
        )


def _title(found: Found) -> str:
    """The question that the first of the measurements asks."""
    if found.reuse:
        return "What does reading once save?"
    if found.compared or found.worth or found.rate:
        return "What was the message worth?"
    if found.plan:
        return "When does a team pay?"
    return "What is left after some hops?" if found.telephone else "Which edges matter?"


def _stated(first: Recorded) -> tuple[tuple[str, str], ...]:
    """The line under the title."""
    return (
        ("items", f"{first.task['items']} of the {first.task['split']} split"),
        ("seed", str(first.seed)),
        ("models", ", ".join(model["name"] for model in first.models)),
        ("date", str(first.machine.get("date", ""))),
    )


def _comparison(found: Found, compared: Compared) -> Comparison:
    matched = [arm for arm in compared.arms if arm.condition == "matched"]
    return Comparison(
        summary=_summary(compared),
        worth=differences(compared),
        accuracy=accuracies(compared),
        arms=tables.arms(compared.arms),
        costs=tables.costs(found, matched),
        examples=disagreements(found, compared),
        gates=inlined(found.gates()),
    )


def _summary(compared: Compared) -> str:
    """How many channels carried content, and what the others did."""
    by_verdict: dict[str, list[str]] = {}
    for name, worth in compared.channels.items():
        by_verdict.setdefault(worth.verdict, []).append(name)
    carried = len(by_verdict.pop("content", ()))
    others = [f" {verdict.capitalize()}: {_and(names)}." for verdict, names in by_verdict.items()]
    return f"{carried} of {len(compared.channels)} channels show content.{''.join(others)}"


def _and(names: Sequence[str]) -> str:
    """Names that may hold commas, so that they can be told apart."""
    return ", ".join(f"“{name}”" for name in names)


def _bits(found: Found) -> Bits | None:
    measured: Sequence[Information] = ()
    findings: Sequence[str] = ()
    if found.worth:
        measured, findings = found.worth.channels, found.worth.findings()
    elif found.compared:
        measured = tuple(found.compared.information.values())
    if not measured:
        return None
    first = measured[0]
    return Bits(information(measured), tables.bits(measured), first.n, first.ceiling, findings)


def _facts(command: str, one: Recorded) -> Facts:
    task, machine = one.task, dict(one.machine)
    rows = [
        ("date", str(machine.pop("date", "unknown"))),
        ("items", f"{task['items']} of the {task['split']} split of {task['name']}"),
        ("seed", str(one.seed)),
        *((model["name"], f"weights {model['fingerprint']}") for model in one.models),
        *_apart(task),
        *(
            (f"{split} file", f"{file['path']}, SHA-256 {file['sha256'][:16]}")
            for split, file in _files(task)
        ),
        ("versions", _pairs(one.versions)),
        ("machine", _pairs(machine)),
        *((_words(name), _told(value)) for name, value in one.notes.items() if name != "recipe"),
    ]
    return Facts(command, tuple(rows))


def _apart(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the splits of the task share, where it was counted."""
    overlap = task.get("overlap", {})
    if "dropped" in overlap:
        yield "facts in two splits", _pairs(overlap["facts"])
        yield "questions in two splits", _pairs(overlap["questions"])
        yield "left out for that", f"{overlap['dropped']} training items"


def _files(task: Mapping[str, Any]) -> list[tuple[str, Mapping[str, str]]]:
    return list(task.get("files", {}).items())


def _pairs(values: Mapping[str, Any]) -> str:
    told = (f"{name} {'none' if value is None else value}" for name, value in values.items())
    return ", ".join(told)


def _told(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
