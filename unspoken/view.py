"""A canvas in the terminal while it is denoised."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from unspoken.backbone.diffusion import Frame, watching
from unspoken.terminal import escaped

__all__ = ["CanvasView", "canvas_view", "drawn"]

_MASK = "░"


def drawn(frame: Frame) -> Panel:
    """A canvas as a panel: masks shaded, new words in bold, the rest plain."""
    text = Text(overflow="fold")
    for word, fresh in zip(frame.words, frame.fresh, strict=True):
        if word is None:
            text.append(f"{_MASK} ", style="bright_black")
        else:
            text.append(
                escaped(word.replace("\n", "↵")), style="bold bright_green" if fresh else ""
            )
    filled = sum(word is not None for word in frame.words)
    progress = f"step {frame.step} of {frame.steps}, {filled} of {len(frame.words)} positions"
    title = Text(escaped(frame.model, line=True))
    return Panel(text, title=title, subtitle=progress, border_style="cyan", padding=(0, 1))


class CanvasView:
    """Draws one canvas after the other. The last state of each stays on the screen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None

    def show(self, frame: Frame) -> None:
        if frame.step == 1:
            self.close()
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        self.live.update(drawn(frame), refresh=True)

    def close(self) -> None:
        """Leave the canvas as it is, so that other words may follow."""
        if self.live is not None:
            self.live.stop()
        self.live = None


@contextmanager
def canvas_view(console: Console | None = None) -> Generator[CanvasView]:
    """Within it, canvases are drawn as they change, if the console is a terminal."""
    view = CanvasView(console or Console(stderr=True))
    if not view.console.is_terminal:
        yield view
        return
    try:
        with watching(view.show):
            yield view
    finally:
        view.close()
