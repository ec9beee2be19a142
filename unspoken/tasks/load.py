"""Loading a task: read or generated, with disjoint splits and a record of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from unspoken.errors import DataError, unknown
from unspoken.files import sha256
from unspoken.tasks.items import EXAMPLE, Item, load_jsonl
from unspoken.tasks.people import people
from unspoken.tasks.several import several
from unspoken.tasks.splits import Overlap, apart, held_out, overlap

__all__ = ["Origin", "Protocol", "Task", "TaskSource", "load_task", "packaged", "transferred"]

Protocol = Literal["private", "shared", "closed"]
"""Private: only the sender reads the context. Shared: both do. Closed: neither; both are asked."""

_PACKAGED = ("cities", "gsm8k", "paragraphs", "qasc", "squad_sentence")
_KNOWN = (*_PACKAGED, "people", "jsonl")
_TEST_PEOPLE = 200


class Origin(TypedDict):
    """Where a split was read from: the path, and the SHA-256 of the file in hex."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Task:
    """Three splits and where they come from. `files` is empty for generated items."""

    name: str
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    files: Mapping[str, Origin]
    overlap: Overlap
    protocol: Protocol = "private"


class TaskSource(BaseModel):
    """The task of a recipe. A file for `train` and one for `test` imply `jsonl`.

    `name` is a packaged task, `people` (invented persons) or `jsonl`. Packaged are `cities` (in
    which country a city is, from GeoNames), `gsm8k` (sums in words), `paragraphs` (of about 150
    tokens), `qasc` (facts of science) and `squad_sentence` (sentences of articles). Their sources
    and licences are in `unspoken/tasks/data/README.md`. `validation` is the most items that are
    held out of `train`, and never more than half of it. `together` is how many texts the sender
    reads at once, see `several`. `size` is the number of people to train and validate on, with four
    questions each. `size` and `seed` concern the task `people` only.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "qasc"
    train: Path | None = None
    test: Path | None = None
    validation: int = Field(default=200, ge=0)
    protocol: Protocol = "private"
    together: int = Field(default=1, ge=1)
    seed: int = 0
    size: int = Field(default=1000, ge=1)


def load_task(source: TaskSource) -> Task:
    """Read or generate a task, keep its splits apart, and join texts if several are read at once.

    Raises `UnknownName` for a task that does not exist. Raises `DataError` for a file that cannot
    be read, for one file of two, and if nothing is left to train or validate on.

    >>> load_task(TaskSource(name="people", size=100)).overlap.dropped
    0
    """
    return _joined(_loaded_task(source), source.together)


def _loaded_task(source: TaskSource) -> Task:
    """The task with a text for each item."""
    name = "jsonl" if source.train or source.test else source.name
    given, test, origins = _read(name, source)
    fit = apart(given, test)
    validation = held_out(fit, min(source.validation, len(fit) // 2))
    chosen = {item.id for item in validation}
    train = apart([item for item in given if item.id not in chosen], (*test, *validation))
    if not train or (source.validation and not validation):
        raise DataError(
            f"task {name!r}: of {len(given)} training items {len(validation)} are left to validate "
            f"and {len(train)} to train on, as no fact, question or group may be in two splits; "
            f"give more distinct items, or change validation={source.validation}"
        )
    splits = {"train": train, "validation": validation, "test": test}
    shared = overlap(splits, dropped=len(given) - len(validation) - len(train))
    return Task(name, train, validation, test, origins, shared, source.protocol)


def transferred(task: Task, source: TaskSource) -> Task:
    """Another task's test items, for what was trained on `task`.

    Test items whose fact or question was trained or validated on are dropped. `dropped` counts
    them.
    """
    other = _loaded_task(source)
    test = apart(other.test, (*task.train, *task.validation))
    splits = {"train": task.train, "validation": task.validation, "test": test}
    shared = overlap(splits, dropped=len(other.test) - len(test))
    asked = _joined(replace(other, test=test, overlap=shared), source.together)
    return replace(asked, train=task.train, validation=task.validation)


def _joined(task: Task, count: int) -> Task:
    """The task with `count` texts for each item. Its splits are apart already."""
    if count == 1:
        return task
    splits = {name: several(getattr(task, name), count) for name in ("train", "validation", "test")}
    return replace(task, name=f"{task.name}, {count} at once", **splits)


def packaged(name: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The training and test items of a packaged task, as they are in the package.

    'cities', 'gsm8k', 'paragraphs', 'qasc' or 'squad_sentence'; raises `UnknownName` for any other.
    """
    if name not in _PACKAGED:
        raise unknown("packaged task", name, _PACKAGED)
    return _packaged(name, "train")[0], _packaged(name, "test")[0]


def _read(
    name: str, source: TaskSource
) -> tuple[tuple[Item, ...], tuple[Item, ...], dict[str, Origin]]:
    """Training items, test items, and the files that they came from."""
    if name == "people":
        return *people(source.size, _TEST_PEOPLE, source.seed), {}
    if name == "jsonl":
        if source.train is None or source.test is None:
            raise DataError(
                f"a task of your own needs two files, got train={source.train}, "
                f"test={source.test}; give both, one item a line: {EXAMPLE}"
            )
        train, trained = _loaded(source.train, str(source.train))
        test, tested = _loaded(source.test, str(source.test))
    elif name in _PACKAGED:
        (train, trained), (test, tested) = _packaged(name, "train"), _packaged(name, "test")
    else:
        raise unknown("task", name, _KNOWN)
    return train, test, {"train": trained, "test": tested}


def _packaged(name: str, split: str) -> tuple[tuple[Item, ...], Origin]:
    # The path is relative to the package, so results that quote it are the same on every machine.
    inside = f"tasks/data/{name}_{split}.jsonl"
    with as_file(files("unspoken").joinpath(inside)) as path:
        return _loaded(path, f"unspoken/{inside}")


def _loaded(path: Path, shown: str) -> tuple[tuple[Item, ...], Origin]:
    return load_jsonl(path), Origin(path=shown, sha256=sha256(path))
