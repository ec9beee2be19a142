"""Measurements that are kept beside a report, and found again by what they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from unspoken.evaluation.identity import identity
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.tasks.splits import digest

__all__ = ["key_of", "store", "stored"]

_Kept = TypeVar("_Kept")


def key_of(pipeline: Pipeline, *more: Any) -> str:
    """What a measurement depends on: the pipeline, and what else is given."""
    return digest(json.dumps([identity(pipeline), *more]))[:16]


def store(path: Path | None, key: str, found: Any) -> None:
    """Keep a dataclass, whole or not at all; nowhere without a path."""
    if path is not None:
        write_text(path, json.dumps({"key": key, "found": asdict(found)}) + "\n")


def stored(path: Path | None, key: str, kind: type[_Kept]) -> _Kept | None:
    """What stands there, if it is whole and of this key."""
    if path is None or not path.exists():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        found, of = TypeAdapter(kind).validate_python(content["found"]), content["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if of == key else None
