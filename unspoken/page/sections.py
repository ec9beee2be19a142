"""What a page shows, as data: sections with words, charts, tables and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unspoken.page.charts import Chart

__all__ = [
    "Answer",
    "Cell",
    "Example",
    "Examples",
    "Facts",
    "Heading",
    "Page",
    "Part",
    "Points",
    "Section",
    "Table",
]


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of a table's cell, and the value by which it is sorted."""

    text: str
    value: float | str

    @property
    def number(self) -> bool:
        return not isinstance(self.value, str)

    @classmethod
    def of(cls, value: float, form: str) -> Cell:
        return cls(format(value, form), value)

    @classmethod
    def word(cls, text: str) -> Cell:
        return cls(text, text)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted by each of its columns. The first cell of a row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def numeric(self, column: int) -> bool:
        return all(row[column].number for row in self.rows)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading below that of the section."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """Sentences, each a point of a list."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and whether it is right."""

    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One item. rows: a name, the words that were read for it if any, and its answers."""

    question: str
    wanted: str
    rows: tuple[tuple[str, str, tuple[Answer | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Items with the answers to them. head: of the columns; read: what the words below a name are.

    These are words of models and tasks. A page escapes them.
    """

    head: tuple[str, ...]
    read: str
    shown: tuple[Example, ...]


Part = str | Heading | Points | Chart | Table | Examples
"""A part of a section; a string is a paragraph, with **two stars** around what is strong."""


@dataclass(frozen=True)
class Section:
    """One section of a page.

    key: the anchor of links; of two sections with one key the later one is shown. last: after the
    sections of all other studies.
    """

    key: str
    title: str
    parts: tuple[Part, ...]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What one needs to repeat a run, as names and values."""

    study: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """Everything that one page shows.

    summary: a sentence below the title, or none; stated: names and values below it. again: the
    command that computes every number again, empty if there is none; seeds: those of that command.
    """

    title: str
    task: str
    protocol: str
    summary: str
    stated: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    facts: tuple[Facts, ...]
    again: str
    seeds: str
