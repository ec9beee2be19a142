"""Pictures inside a page."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

__all__ = ["inlined"]


def inlined(path: Path) -> str:
    """A PNG as a data URL; empty if there is none."""
    if not path.is_file():
        return ""
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
