"""What a verb says: words from outside are escaped."""

from __future__ import annotations

import json
import sys
from traceback import format_exception
from types import TracebackType
from typing import Any

import typer

from unspoken.terminal import escaped

__all__ = ["say", "say_json", "say_traceback"]


def say(
    words: str = "", *, line: bool = False, nl: bool = True, err: bool = False, **style: Any
) -> None:
    """Print words, escaped. line: they are one line. style: of `typer.secho`."""
    shown = escaped(words, line=line)
    typer.echo(typer.style(shown, **style) if style else shown, nl=nl, err=err)


def say_json(content: Any) -> None:
    """Print content as one line of JSON. Escaped, it is the same content."""
    typer.echo(escaped(json.dumps(content, ensure_ascii=False)))


def say_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error that is not ours as Python does, escaped."""
    sys.stderr.write(escaped("".join(format_exception(kind, error, trace))))
