"""JSON under a digest, read strictly."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from unspoken.errors import Damaged, StorageError

__all__ = [
    "DIGEST",
    "check_keys",
    "content_digest",
    "digested",
    "opened",
    "parse",
    "read_json",
]

DIGEST = "sha256"
"""The key under which JSON and safetensors files have the digest of all else in them."""


def digested(content: Mapping[str, Any], key: str = DIGEST) -> dict[str, Any]:
    """The same content with its digest.

    >>> opened(digested({"n": 1}), Path("a.json"))
    {'n': 1}
    """
    return {**content, key: content_digest(content)}


def opened(content: Mapping[str, Any], path: Path, key: str = DIGEST) -> dict[str, Any]:
    """The content without its digest, if it has one. Raises `Damaged` if that is another's."""
    rest = {name: value for name, value in content.items() if name != key}
    if key in content and content[key] != content_digest(rest):
        raise Damaged(f"{path} is damaged: its content is not what its digest was made of")
    return rest


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, without its digest. Raises `Damaged`, and `StorageError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    content = parse(data, path)
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged: it holds no JSON object")
    return opened(cast(dict[str, Any], content), path)


def parse(data: str | bytes, path: Path) -> Any:
    """JSON with finite numbers and no key twice. Raises `Damaged` for anything else."""
    try:
        return json.loads(
            data, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise Damaged(f"{path} is damaged: its JSON is nested too deeply") from error
    except ValueError as error:
        raise Damaged(f"{path} is damaged, as it is no JSON: {error}") from error


def _constant(word: str) -> float:
    raise ValueError(f"{word} is no finite number")


def _finite(word: str) -> float:
    return found if math.isfinite(found := float(word)) else _constant(word)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def content_digest(content: Any) -> str:
    """The digest of anything that JSON can hold, however it is written."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check_keys(
    given: Any, known: Iterable[str], path: Path, needed: Iterable[str] | None = None
) -> None:
    """Raise `Damaged`, with names, unless an object has the keys that are known, and no others.

    needed: those of them that must be there, all by default.
    """
    known = set(known)
    if not isinstance(given, dict):
        raise Damaged(f"{path} is damaged: {type(given).__name__} where an object is wanted")
    names = set(cast(dict[str, Any], given))
    if surplus := sorted(names - known):
        raise Damaged(f"{path} has unknown keys {surplus}; known are {sorted(known)}")
    if missing := sorted((known if needed is None else set(needed)) - names):
        raise Damaged(f"{path} lacks the keys {missing}")
