"""A store of measurements, found again by what they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from unspoken.files import write_text

__all__ = ["Store"]

_Kept = TypeVar("_Kept")
Check = Callable[[Any], bool]


class Store:
    """Measurements by key: in memory, and also in files if there is a folder.

    A measurement is a dataclass, kept in one JSON file, or a list of dataclasses, kept in a .jsonl
    file, one a line. Its key is made of all that it depends on, and is kept with it. A file that is
    missing, broken, of another key or of another version is ignored, and its content is measured
    again. Files are written whole or not at all.

    >>> from unspoken.evaluation.statistics import Interval
    >>> store = Store()
    >>> store.get("interval.json", "a key", Interval, lambda: Interval(0.0, 0.5))
    Interval(low=0.0, high=0.5)
    >>> store.find("of another name.json", "a key", Interval)
    Interval(low=0.0, high=0.5)
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
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
            found = _read(self.folder / name, key, kind)
        return None if found is None or (sound is not None and not sound(found)) else found

    def measured(self, key: str, kind: type[Any]) -> bool:
        """Whether this store has measured it. What an earlier run did is read from a file."""
        return (str(kind), key) in self._measured

    def keep(self, name: str, key: str, kind: type[_Kept], found: _Kept) -> None:
        """Keep a measurement, and write it if there is a folder."""
        self._known[str(kind), key] = found
        if self.folder is not None:
            write_text(self.folder / name, _text(name, key, found))


_ARM = "arm"
"""The name of the key in a line of predictions."""


def _text(name: str, key: str, found: Any) -> str:
    if name.endswith(".jsonl"):
        rows = ({**asdict(row), _ARM: key} for row in found)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return json.dumps({"key": key, "found": asdict(found)}) + "\n"


def _content(name: str, text: str) -> Any:
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n")[:-1]]  # every line is ended
    return json.loads(text)


def _read(path: Path, key: str, kind: type[_Kept]) -> _Kept | None:
    """The content of a file, if it would be written the same: then it is whole and of this key."""
    name = path.name
    try:
        content = _content(name, path.read_text(encoding="utf-8"))
        given = content if name.endswith(".jsonl") else content["found"]
        found = TypeAdapter(kind).validate_python(given)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if _content(name, _text(name, key, found)) == content else None
