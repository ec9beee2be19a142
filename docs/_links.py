"""Links of the site: pages link to files of the repository as they do on a code host.

A page of the repository's root becomes a page of the site. Any other file that a page links to is
copied below `source/`, so that each link leads somewhere and the site needs no other host.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)]*)?\))")
_CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """The pages of the root, and every file that a page links to."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in [one for one in files.documentation_pages()]:
        text = Path(page.abs_src_path).read_text(encoding="utf-8")
        for _, target, _ in _LINK.findall(text):
            path = _of_repository(page.src_uri, target)
            uri = _on_site(path)
            known = not uri.startswith("source/") or files.get_file_from_path(uri) is not None
            if not known and (ROOT / path).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page, with links that lead to places of the site. Code stays as it is."""
    home = posixpath.dirname(page.file.src_uri) or "."

    def moved(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        uri = _on_site(_of_repository(page.file.src_uri, target))
        return f"{before}{posixpath.relpath(uri, home)}{after}"

    parts = _CODE.split(markdown)
    return "".join(part if n % 2 else _LINK.sub(moved, part) for n, part in enumerate(parts))


def _of_repository(page: str, target: str) -> str:
    """The path in the repository to which a page's link leads. A folder is its `__init__.py`."""
    home = "" if page in PAGES else "docs"
    path = posixpath.normpath(posixpath.join(home, posixpath.dirname(page), target))
    folder = ROOT / path
    return f"{path}/__init__.py" if (folder / "__init__.py").is_file() else path


def _on_site(path: str) -> str:
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    return path if path in PAGES else f"source/{path}"
