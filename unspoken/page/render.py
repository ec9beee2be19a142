"""A page from its template: everything inlined, all words of models escaped, nothing fetched."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from unspoken.page.axis import panels, row_axis
from unspoken.page.charts import SERIES
from unspoken.page.sections import Page
from unspoken.page.svg import drawn_graph, drawn_grid

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(page: Page) -> str:
    """The page as HTML. Raises `MissingExtra` without matplotlib, which finds the ends of axes.

    Its policy allows its one style and its one script, by their hashes, inline pictures, and
    nothing else. What a model wrote could not run even if it were not escaped.
    """
    style, script = (_text(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("report.html.jinja", globals=_GIVEN)
    return template.render(page=page, policy=policy, style=style, script=script)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _kind(part: object) -> str:
    """The name by which the template chooses how to show a part."""
    return type(part).__name__


_GIVEN: dict[str, Any] = {
    "kind_of": _kind,
    "pairwise": pairwise,
    "series": SERIES,
    "row_axis": row_axis,
    "panels": panels,
    "drawn_graph": drawn_graph,
    "drawn_grid": drawn_grid,
}
"""What templates call."""


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
