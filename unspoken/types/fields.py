"""What an item gives to read, by name: each field holds words, or documents with names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from unspoken.errors import QueryError, check_unicode, shown

__all__ = ["Document", "FieldValue", "field_value", "size_of", "words_of"]


class Document(NamedTuple):
    """A text with a name, such as a file or what a tool has found."""

    name: str
    text: str


FieldValue = str | tuple[Document, ...]
"""What one item has in one field."""

_PARTS = {"name", "text"}
_ALLOWED = (
    'words, or documents: {"a.md": "..."}, a list of {"name": ..., "text": ...}, or a list of texts'
)


def field_value(what: str, given: Any) -> FieldValue:
    """Words as they are, and documents as a tuple. `what` names them in errors.

    A list of texts is numbered from 1. Raises `QueryError` for anything else, for a document
    without a name or without a word, and for two documents with one name.

    >>> field_value("documents", {"a.md": "Ada has a parrot."})
    (Document(name='a.md', text='Ada has a parrot.'),)
    >>> [document.name for document in field_value("documents", ["one text", "another"])]
    ['1', '2']
    """
    if isinstance(given, str):
        check_unicode(what, given, QueryError)
        return given
    found = tuple(Document(*_pair(what, name, text)) for name, text in _pairs(what, given))
    twice = sorted(name for name, n in Counter(one.name for one in found).items() if n > 1)
    if twice:
        raise QueryError(f"{what} have the name {twice[0]!r} twice; give each document another")
    return found


def size_of(value: FieldValue) -> int:
    """How many characters it has, the names of documents included."""
    return len(value) if isinstance(value, str) else sum(len(part) for one in value for part in one)


def words_of(value: FieldValue) -> str:
    """Its words without the names of documents, which are one paragraph after the other."""
    return value if isinstance(value, str) else "\n\n".join(one.text for one in value)


def _pairs(what: str, given: Any) -> Iterable[tuple[object, object]]:
    """Names and texts, not checked yet."""
    if isinstance(given, Mapping):
        return cast(Mapping[object, object], given).items()
    if isinstance(given, list | tuple):
        return [_named(what, n, one) for n, one in enumerate(cast(Sequence[object], given), 1)]
    raise QueryError(f"{what} is {shown(given)}; give {_ALLOWED}")


def _named(what: str, number: int, given: Any) -> tuple[object, object]:
    if isinstance(given, str):
        return str(number), given
    if isinstance(given, Document):
        return given
    if not isinstance(given, Mapping) or set(cast(Mapping[object, object], given)) != _PARTS:
        raise QueryError(
            f"number {number} of {what} is {shown(cast(object, given))}; give {_ALLOWED}"
        )
    row = cast(Mapping[object, object], given)
    return row["name"], row["text"]


def _pair(what: str, name: object, text: object) -> tuple[str, str]:
    for part, words in (("name", name), ("text", text)):
        where = f"the {part} of document {name!r} in {what}"
        if not isinstance(words, str):
            raise QueryError(f"{where} is {shown(words)}; give words")
        if not words.strip():
            raise QueryError(f"{where} is empty; give it words, or leave the document out")
        check_unicode(where, words, QueryError)
    return cast(tuple[str, str], (name, text))
