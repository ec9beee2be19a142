"""Items: what is asked, and the files that hold them."""

from __future__ import annotations

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from unspoken.errors import DataError, QueryError
from unspoken.tasks.matching import normalise
from unspoken.types import FieldValue, field_value, words_of

__all__ = ["EXAMPLE", "Item", "load_jsonl"]

EXAMPLE = (
    '{"id": "q1", "context": "Ada keeps a parrot.", "question": "What does Ada keep?", '
    '"answers": ["a parrot"]}'
)


@dataclass(frozen=True, slots=True)
class Item:
    """One question: what the sender reads, what the receiver is asked, accepted answers.

    fields: what agents read besides, by name, such as documents.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    group: str = ""
    fields: Mapping[str, FieldValue] = field(default_factory=dict[str, FieldValue], hash=False)

    def to_dict(self) -> dict[str, Any]:
        """All that the item holds. Without further fields it is what it was in version 0.1."""
        found = asdict(self)
        return found if self.fields else {k: v for k, v in found.items() if k != "fields"}


def load_jsonl(path: Path) -> tuple[Item, ...]:
    """Read items, one JSON object a line. Blank lines are skipped.

    Raises `DataError`, naming file and line, if a line is not such an object, if a text in it holds
    no word, or if its id was used before. Raises it also if the file is missing or has no items.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror
        raise DataError(f"cannot read {path}: {reason}; give a JSONL file of items") from error
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise DataError(f"{path} is written in UTF-16; save it as UTF-8")
    lines = data.removeprefix(BOM_UTF8).split(b"\n")
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = _item(line, f"{path}, line {number}")
        if item.id in items:
            raise DataError(
                f"{path}, line {number}: id {item.id!r} is used on an earlier line; "
                "give every item another id"
            )
        items[item.id] = item
    if not items:
        raise DataError(f"{path} holds no items; a line must look like {EXAMPLE}")
    return tuple(items.values())


def _worded(text: str) -> str:
    if not normalise(text):
        raise ValueError("holds no word")
    return text


_Words = Annotated[str, AfterValidator(_worded)]


_Value = Annotated[Any, AfterValidator(lambda given: field_value("the value", given))]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    fields: dict[str, _Value] = {}
    context: Annotated[_Words, Field(default=None, validate_default=True)]
    question: _Words
    answers: Annotated[tuple[_Words, ...], Field(min_length=1)]
    group: str = ""

    @field_validator("fields")
    @classmethod
    def _besides(cls, given: dict[str, FieldValue]) -> dict[str, FieldValue]:
        if taken := sorted({"question", "context"} & given.keys()):
            raise ValueError(f"{taken[0]!r} belongs beside the fields, not into them")
        return given

    @field_validator("context", mode="before")
    @classmethod
    def _read(cls, given: Any, line: ValidationInfo) -> Any:
        """Without a context, the words of the fields are the fact that the item is about."""
        if given is None and not line.data.get("fields"):
            raise PydanticCustomError("missing", "Field required")
        return "\n\n".join(map(words_of, line.data["fields"].values())) if given is None else given


def _item(line: bytes, where: str) -> Item:
    try:
        read = _Line.model_validate_json(line)
        json.loads(line, object_pairs_hook=_distinct)
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join((*map(str, problem["loc"]), problem["msg"])) for problem in error.errors()
        )
        raise _malformed(where, wrong) from error
    except QueryError as error:
        raise _malformed(where, str(error)) from error
    return Item(read.id, read.context, read.question, read.answers, read.group, read.fields)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Names and values as a dictionary. JSON allows a name twice, and the first would be lost."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise QueryError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def _malformed(where: str, wrong: str) -> DataError:
    return DataError(
        f"{where}: {wrong}. A line must look like {EXAMPLE}, with a group if items belong "
        'together, with fields such as {"documents": {"a.md": "..."}} if agents read more, and '
        "nothing else"
    )
