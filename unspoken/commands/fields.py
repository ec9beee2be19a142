"""What a question is asked with: fields and documents from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Context", "DocumentFiles", "FieldWords", "query_of"]

Context = Annotated[str, typer.Option(help="words for agents whose prompt has {context}")]
FieldWords = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME=WORDS",
        help="words for agents whose prompt has {NAME}; may be given several times",
    ),
]
DocumentFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--document",
        metavar="FILE",
        help="a text file for agents whose prompt has {documents}; may be given several times",
    ),
]


def query_of(
    question: str, context: str, fields: Sequence[str] | None, documents: Sequence[Path] | None
) -> dict[str, Any]:
    """The fields of a question. A document's name is its path as it was given.

    Raises `QueryError` for a field without a name or that is given twice, and `DataError` for a
    file that cannot be read.
    """
    from unspoken.errors import QueryError

    query: dict[str, Any] = {"question": question, "context": context}
    for given in fields or ():
        name, found, words = given.partition("=")
        if not found or not name.isidentifier() or name in query:
            raise QueryError(
                f"--field {given!r} gives no field, or one that there is already; write "
                "NAME=WORDS, with another name for each, and --context for the context"
            )
        query[name] = words
    if documents and "documents" in query:
        raise QueryError("documents are given as a field and as files; give them once")
    if documents:
        query["documents"] = [{"name": str(path), "text": _text(path)} for path in documents]
    return query


def _text(path: Path) -> str:
    from unspoken.errors import DataError

    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot read document {path}: {error.strerror}; give a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"document {path} is not written in UTF-8; save it as UTF-8") from error
