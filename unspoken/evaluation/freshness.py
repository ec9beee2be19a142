"""Which files of ours have made a result, and which of them have changed since."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from os.path import abspath
from pathlib import Path
from time import time
from typing import Any, cast

__all__ = ["Freshness", "code_in_use", "freshness", "note_recipe"]

_ROOT = Path(__file__).parents[2]
_FOLDERS = ("unspoken", "benchmarks", "recipes")
_begun = time()
_recipes = set[Path]()


def note_recipe(path: Path) -> None:
    """Remember that a recipe was read, since what is measured depends on it."""
    _recipes.add(Path(abspath(path)))


def code_in_use() -> dict[str, str]:
    """The modules that this process has imported and the recipes that it has read, with digests.

    Only those of `unspoken`, its benchmarks and its recipes. A file that was written after the
    process began may not be what it has imported: it has no digest, and the result is stale.
    """
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(abspath(file)) for file in loaded if file} | _recipes
    named = {_name(path): path for path in paths if path.suffix in (".py", ".yaml")}
    return {
        name: _digest(path) if path.stat().st_mtime <= _begun else ""
        for name, path in sorted(named.items())
        if name
    }


def _name(path: Path) -> str:
    """Where a file is below what holds the package, '' if it is none of ours."""
    if not path.is_relative_to(_ROOT) or not path.is_file():
        return ""
    parts = path.relative_to(_ROOT).parts
    return "/".join(parts) if parts[0] in _FOLDERS else ""


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Freshness:
    """Whether a result is by the code that there is.

    files: how many have made it, 0 if it keeps no digest. changed: those that are no longer the
    same, or no longer there.
    """

    files: int
    changed: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return ("stale" if self.changed else "fresh") if self.files else "no digest"


def freshness(content: Mapping[str, Any]) -> Freshness:
    """Whether a result is fresh. content: of its file."""
    kept = _part(content, "code") or _part(_part(content, "machine"), "code")
    changed = [name for name, digest in kept.items() if _now(name) != digest]
    return Freshness(len(kept), tuple(changed))


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return cast(dict[str, Any], part) if isinstance(part, dict) else {}


def _now(name: str) -> str:
    """The digest of a file by its name, '' if it is not there, or none of ours."""
    path = Path(abspath(_ROOT / name))
    return _digest(path) if name and _name(path) == name else ""
