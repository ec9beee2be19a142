"""A store of measurements, found again by what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from unspoken import kept
from unspoken.errors import Damaged
from unspoken.files import write_text
from unspoken.kept import DIGEST

__all__ = ["Store", "read_rows"]

_Kept = TypeVar("_Kept")
Check = Callable[[Any], bool]


class Store:
    """Measurements by key: in memory, and also in files if there is a folder.

    A measurement is a dataclass, kept in one JSON file, or a list of dataclasses, kept in a .jsonl
    file, one a line. Its key is made of all that it depends on, and is kept with it, and so is a
    digest. A file that is missing, of another key or of another version is ignored, and its content
    is measured again. A damaged one is moved aside first, with a warning. Files are written whole
    or not at all.

    >>> from unspoken.evaluation.statistics import Interval
    >>> store = Store()
    >>> store.get("interval.json", "a key", Interval, lambda: Interval(0.0, 0.5))
    Interval(low=0.0, high=0.5)
    >>> store.find("of another name.json", "a key", Interval)
    Interval(low=0.0, high=0.5)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._known: dict[tuple[str, str], Any] = {}
        self._measured: set[tuple[str, str]] = set()

    def get(
        self,
        name: str,
        key: str,
        kind: type[_Kept],
        measure: Callable[[], _Kept],
        sound: Check | None = None,
    ) -> _Kept:
        """The measurement of this key, or the result of `measure`, which is kept as `name`."""
        found = self.find(name, key, kind, sound)
        if found is None:
            found = measure()
            self._measured.add((str(kind), key))
        self.keep(name, key, kind, found)
        return found

    def find(
        self, name: str, key: str, kind: type[_Kept], sound: Check | None = None
    ) -> _Kept | None:
        """The measurement of this key, if there is one and `sound` accepts it."""
        found = self._known.get((str(kind), key))
        if found is None and self.folder is not None:
            found = self._sound(self.folder / name, key, kind)
        return None if found is None or (sound is not None and not sound(found)) else found

    def measured(self, key: str, kind: type[Any]) -> bool:
        """Whether this store has measured it. What an earlier run did is read from a file."""
        return (str(kind), key) in self._measured

    def keep(self, name: str, key: str, kind: type[_Kept], found: _Kept) -> None:
        """Keep a measurement, and write it if there is a folder."""
        self._known[str(kind), key] = found
        if self.folder is not None:
            write_text(self.folder / name, _text(_plain(name, key, found)))

    def _sound(self, path: Path, key: str, kind: type[_Kept]) -> _Kept | None:
        try:
            return _read(path, key, kind)
        except Damaged as error:
            kept.set_aside(path, error)
            return None


_ARM = "arm"
"""The name of the key in a line of predictions."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file, as they were written. Raises `OSError`, `Damaged`.

    Each has the digest of all of them, unless version 0.1 wrote them.
    """
    *lines, rest_of_line = path.read_bytes().split(b"\n")
    if rest_of_line:
        raise Damaged(f"{path} is damaged: its last line has no end")
    rows = [_object(line, path) for line in lines]
    rest = [{name: value for name, value in row.items() if name != DIGEST} for row in rows]
    digests = {row.get(DIGEST) for row in rows}
    if digests not in ({None}, {kept.content_digest(rest)}):
        raise Damaged(f"{path} is damaged: its lines are not those that its digest was made of")
    return rest


def _object(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object, in which numbers may be infinite."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged, as it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path} is damaged: it holds no JSON object")
    return cast(dict[str, Any], found)


def _plain(name: str, key: str, found: Any) -> Any:
    """A measurement as JSON has it, with its key and without a digest."""
    if name.endswith(".jsonl"):
        return [{**asdict(row), _ARM: key} for row in found]
    return {"key": key, "found": asdict(found)}


def _text(plain: Any) -> str:
    if isinstance(plain, list):
        digest = {DIGEST: kept.content_digest(plain)}
        rows = [{**row, **digest} for row in cast(list[dict[str, Any]], plain)]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps(kept.digested(plain)) + "\n"


def _read(path: Path, key: str, kind: type[_Kept]) -> _Kept | None:
    """The content of a file, if it is of this key and would be written the same.

    Raises `Damaged` if it is of no key at all.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise Damaged(f"{path} is damaged: it is no file")
    lines = path.suffix == ".jsonl"
    content: Any
    content = read_rows(path) if lines else kept.opened(_object(path.read_bytes(), path), path)
    try:
        found = TypeAdapter(kind).validate_python(content if lines else content["found"])
    except (ValueError, KeyError, TypeError):
        return None  # of another version
    return found if json.loads(json.dumps(_plain(path.name, key, found))) == content else None
