"""What reaches a terminal: words from outside are escaped, so that they show and do not act."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

__all__ = ["PlainConsole", "escaped", "progress", "track"]

T = TypeVar("T")
_Tell = Callable[[int, str], None]

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


@contextmanager
def progress(title: str, parts: int, *, done: int = 0, disable: bool = False) -> Generator[_Tell]:
    """Show on stderr how far work is: by a bar in a terminal, elsewhere by lines.

    A line comes every 15 seconds at most, and at the end. Call what it gives with the number of
    parts that are done, and with what else there is to say. done: parts of an earlier run.
    """
    console = PlainConsole(stderr=True)
    if disable:
        yield lambda part, note: None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=parts, completed=done, note="")
            yield lambda part, note: bar.update(task, completed=part, note=note)
    else:
        yield _lines(console, title, parts, done)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


_EVERY = 15.0  # seconds between two lines


def _lines(console: Console, title: str, parts: int, begun: int) -> _Tell:
    start = last = monotonic()

    def tell(part: int, note: str) -> None:
        nonlocal last
        now = monotonic()
        if part < parts and now - last < _EVERY:
            return
        last = now
        left = timedelta(seconds=round((now - start) / max(part - begun, 1) * (parts - part)))
        after = f"{left} left" if part < parts else f"took {timedelta(seconds=round(now - start))}"
        words = ", ".join(filter(None, (f"{title}: {part} of {parts}", note, after)))
        console.print(words, soft_wrap=True, highlight=False)

    return tell


def track(parts: Sequence[T], title: str, *, disable: bool = False) -> Iterable[T]:
    """Show on stderr how far a loop is, while it runs."""
    with progress(title, len(parts), disable=disable) as tell:
        for n, part in enumerate(parts, 1):
            yield part
            tell(n, "")
