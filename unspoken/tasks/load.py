"""Loading a task: read or generated, with disjoint splits and a record of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from unspoken.errors import DataError, unknown
from unspoken.files import sha256
from unspoken.tasks.items import EXAMPLE, Item, load_jsonl
from unspoken.tasks.mixture import KINDS, MIXED, PACKAGED, mixture, packaged_file, read_kind
from unspoken.tasks.people import people
from unspoken.tasks.several import several
from unspoken.tasks.splits import Overlap, apart, held_out, overlap

__all__ = ["Origin", "Protocol", "Task", "TaskSource", "load_task", "packaged", "transferred"]

Protocol = Literal["private", "shared", "closed"]
"""Private: only the sender reads the context. Shared: both do. Closed: neither; both are asked."""

_KNOWN = (*KINDS, "mixture", "jsonl")
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

    `name` is a packaged task, a kind of text, `people` (invented persons), `mixture` (many kinds)
    or `jsonl`. Packaged are `cities` (in which country a city is, from GeoNames), `gsm8k` (sums in
    words), `paragraphs` (of about 150 tokens), `qasc` (facts of science), `squad_sentence`
    (sentences of articles), and gaps to fill in `definitions`, `verses` and `handbook`. Their
    sources and licences are in `unspoken/tasks/data/README.md`. `validation` is the most items that
    are held out of `train`, and never more than half of it. `together` is how many texts the sender
    reads at once, see `several`. `size` is the number of people to train and validate on, with four
    questions each.

    A `mixture` has all `kinds`, or all that there are, but those of `without`; at most `each`
    training items of every kind. `seed` draws them, and invents people and words.
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
    kinds: tuple[str, ...] = MIXED
    without: tuple[str, ...] = ()
    each: int = Field(default=1500, ge=1)


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
    if name == "mixture":
        return _mixed(source)
    given, test, origins = _read(name, source)
    fit = apart(given, test)
    validation = held_out(fit, min(source.validation, len(fit) // 2))
    chosen = {item.id for item in validation}
    train = apart([item for item in given if item.id not in chosen], (*test, *validation))
    return _task(source, name, (train, validation, test), origins, given=len(given))


def _mixed(source: TaskSource) -> Task:
    for kind in source.without:
        if kind not in source.kinds:
            raise unknown("kind of text to leave out", kind, source.kinds)
    kinds = [kind for kind in source.kinds if kind not in source.without]
    splits = mixture(kinds, source.each, source.validation, source.seed)
    given = len(splits[0]) + len(splits[1])
    return _task(source, "mixture", splits, _origins(kinds), given=given)


def _task(
    source: TaskSource,
    name: str,
    splits: tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]],
    origins: Mapping[str, Origin],
    *,
    given: int,
) -> Task:
    """A task of training, validation and test items. given: how many the first two came from."""
    train, validation, test = splits
    if not train or (source.validation and not validation):
        raise DataError(
            f"task {name!r}: of {given} training items {len(validation)} are left to validate and "
            f"{len(train)} to train on, as no fact, question or group may be in two splits; give "
            f"more distinct items, or change validation={source.validation}"
        )
    named = {"train": train, "validation": validation, "test": test}
    shared = overlap(named, dropped=given - len(validation) - len(train))
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

    Raises `UnknownName` if there is none of this name.
    """
    if name not in PACKAGED:
        raise unknown("packaged task", name, PACKAGED)
    return _packaged(f"{name}_train")[0], _packaged(f"{name}_test")[0]


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
    elif name in PACKAGED:
        (train, trained), (test, tested) = _packaged(f"{name}_train"), _packaged(f"{name}_test")
    elif name in KINDS:
        return *read_kind(name, source.each, source.seed), _origins([name])
    else:
        raise unknown("task", name, _KNOWN)
    return train, test, {"train": trained, "test": tested}


def _origins(kinds: Sequence[str]) -> dict[str, Origin]:
    """The packaged files that kinds of text are made of, by their names."""
    stems = sorted({stem for kind in kinds for stem in KINDS[kind].files})
    return {stem: _packaged(stem)[1] for stem in stems}


def _packaged(stem: str) -> tuple[tuple[Item, ...], Origin]:
    # The path is relative to the package, so results that quote it are the same on every machine.
    inside = packaged_file(stem)
    with as_file(files("unspoken").joinpath(inside)) as path:
        return _loaded(path, f"unspoken/{inside}")


def _loaded(path: Path, shown: str) -> tuple[tuple[Item, ...], Origin]:
    return load_jsonl(path), Origin(path=shown, sha256=sha256(path))
