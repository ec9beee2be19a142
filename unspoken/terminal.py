"""What reaches a terminal: words from outside are escaped, so that they show and do not act."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import track as rich_track
from rich.segment import Segment

__all__ = ["PlainConsole", "escaped", "track"]

T = TypeVar("T")

_ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, ESC and CSI among them, without tab and newline
    "\u2028\u2029"  # ends of lines and paragraphs
    "\u202a-\u202e\u2066-\u2069"  # what turns the direction of the words after it
    "\u206a-\u206f\ufff9-\ufffb"  # formats that nobody should use
    "\ud800-\udfff]"  # halves of letters, which no terminal can be sent
)


def escaped(words: str, *, line: bool = False) -> str:
    """Words with control characters as JSON writes them, six letters for each.

    Letters of any script, emoji and the marks between them stay. line: newlines are escaped too.

    >>> print(escaped("\\x1b[2J Ω"))
    \\u001b[2J Ω
    """
    found = _ACTS.sub(lambda one: f"\\u{ord(one[0]):04x}", words)
    return found.replace("\n", "\\u000a") if line else found


class PlainConsole(Console):
    """A console that escapes what it is given, and takes no word for markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escaped(text), style, control)


def track(parts: Sequence[T], title: str, *, disable: bool = False) -> Iterable[T]:
    """Show on stderr how far a loop is, while it runs."""
    console = PlainConsole(stderr=True)
    return rich_track(parts, escape(title), console=console, disable=disable, transient=True)
