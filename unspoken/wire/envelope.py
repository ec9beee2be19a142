"""Header and layout of a message from the JSON of its bytes, at a cost that has a bound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from unspoken.errors import WireError
from unspoken.wire.compression import Packing
from unspoken.wire.header import MOST_LAYERS, MOST_ROWS, VERSION, Envelope, Header, LayerRun, Layout

__all__ = ["read_envelope"]

_STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"')
_MOST_PARTS = 4 * MOST_LAYERS
"""Lists and objects in the JSON of a message: at most three for a layer, and some more."""
_MOST_ENTRIES = 4 * MOST_ROWS + 16 * MOST_LAYERS
"""Entries of these: four lists of rows, some fields for a layer, and some more."""
_BRIEF = 200
"""Letters of a message that an error shows at most."""


def read_envelope(words: str) -> Envelope:
    """Header and layout of a message. Raises `WireError`, of the first few errors."""
    try:
        _check_parts(words)
        _check_fields(from_json(words))  # gone before the validation begins
        return Envelope.model_validate_json(words)
    except ValidationError as error:
        raise WireError(f"the message has an invalid header: {_first(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"the message has an invalid header: {error!r:.{_BRIEF}}") from error


def _check_parts(words: str) -> None:
    """Raise `WireError` for more lists and objects than a message has: each costs much memory."""
    bare = _STRINGS.sub("", words)
    if (parts := bare.count("[") + bare.count("{")) > _MOST_PARTS:
        raise WireError(f"the message has an invalid header: {parts:,} lists and objects in it")
    if (entries := bare.count(",")) > _MOST_ENTRIES:
        raise WireError(f"the message has an invalid header: {entries:,} entries in it")


def _check_fields(content: Any) -> None:
    """Raise `WireError` for another version, or for fields that no message has."""
    version = content["version"]
    if version != VERSION:
        raise WireError(
            f"the message has version {version!r:.{_BRIEF}}, and this `unspoken` reads version "
            f"{VERSION}. Install the same version at both ends"
        )
    if odd := list(_surplus(content)):
        raise WireError(f"the message has an invalid header: {'; '.join(odd[:4])}")


def _surplus(content: dict[str, Any]) -> Iterator[str]:
    """The first field of each part that does not belong there."""
    layout = content.get("layout", {})
    layers = layout.get("layers", [])[:MOST_LAYERS]
    parts = (
        ("", content, _fields(Envelope)),
        ("header", content.get("header"), _fields(Header)),
        ("layout", layout, _fields(Layout)),
        ("layout.packing", layout.get("packing"), _fields(Packing)),
        *((f"layout.layers.{n}", run, _fields(LayerRun)) for n, run in enumerate(layers)),
    )
    for where, part, known in parts:
        if isinstance(part, dict) and (odd := cast(dict[str, Any], part).keys() - known):
            name = f"{where}.{min(odd)}".lstrip(".")
            yield f"{name:.{_BRIEF}}: is no field of a message"


def _fields(kind: Any) -> frozenset[str]:
    """The fields of a model, or of any model of a union."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return frozenset(kind.model_fields)
    return frozenset[str]().union(*(_fields(one) for one in get_args(get_args(kind)[0])))


def _first(error: ValidationError) -> str:
    """The first few errors, without what was given."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:4]
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}"[:_BRIEF] for e in found)
