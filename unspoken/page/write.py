"""A page from its template: everything inlined, all words of models escaped, nothing fetched."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from unspoken.errors import DataError, MissingExtra
from unspoken.files import write_text
from unspoken.page.found import Found
from unspoken.page.view import Page

__all__ = ["refresh", "render", "write_page"]

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(folder: Path) -> Path:
    """Write report.html into a folder of results, whole or not at all. Raises `DataError`."""
    path = folder / "report.html"
    write_text(path, render(Page.of(Found.read(folder))))
    return path


def refresh(folder: Path) -> None:
    """`write_page` at the end of a measurement, which is not to fail for what stands beside it."""
    try:
        write_page(folder)
    except (DataError, MissingExtra) as error:
        Console(stderr=True).print(f"no report.html is written: {error}", markup=False)


def render(page: Page) -> str:
    """The page as HTML.

    Its policy allows the one style and the one script that stand in it, by their hashes, pictures
    in its own bytes, and nothing else: what a model wrote could not run even if it got through.
    """
    known = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_text(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = known.get_template("report.html.jinja")
    return template.render(page=page, policy=policy, style=style, script=script)


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
