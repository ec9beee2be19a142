"""Items: what is asked, and the files that hold them."""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from unspoken.errors import DataError
from unspoken.tasks.matching import normalise

__all__ = ["EXAMPLE", "Item", "load_jsonl"]

EXAMPLE = (
    '{"id": "q1", "context": "Ada keeps a parrot.", "question": "What does Ada keep?", '
    '"answers": ["a parrot"]}'
)


@dataclass(frozen=True, slots=True)
class Item:
    """One question: what the sender reads, what the receiver is asked, accepted answers."""

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    group: str = ""


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


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    context: _Words
    question: _Words
    answers: Annotated[tuple[_Words, ...], Field(min_length=1)]
    group: str = ""


def _item(line: bytes, where: str) -> Item:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join((*map(str, problem["loc"]), problem["msg"])) for problem in error.errors()
        )
        raise DataError(
            f"{where}: {wrong}. A line must look like {EXAMPLE}, with a group if items belong "
            "together, and nothing else"
        ) from error
    return Item(read.id, read.context, read.question, read.answers, read.group)
