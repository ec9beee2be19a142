"""The page on which one watches agents work: its files, and what a browser may do with them."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response

from unspoken.serving.refusals import Refusal

__all__ = ["Pages"]

_HOME = Path(__file__).parent / "page"

_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".txt": "text/plain",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Pages:
    """The files of the page, by name. They are read once, and there are no others.

    A browser runs their scripts alone, asks this server alone, and shows them in no other page.
    """

    def __init__(self) -> None:
        paths = [path for path in _HOME.iterdir() if path.suffix in _KINDS]
        self._files = {path.name: (path.read_bytes(), _KINDS[path.suffix]) for path in paths}

    def response(self, name: str = "index.html") -> Response:
        """A file. Raises `Refusal` for one that there is not."""
        if name not in self._files:
            known = ", ".join(sorted(self._files))
            raise Refusal(404, f"the page has no file {name[:100]!r}; it has {known}")
        content, kind = self._files[name]
        return Response(content, headers=_HEADERS, media_type=kind)
