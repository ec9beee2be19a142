"""docs/map.md names every folder of the package, and pages link to files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAP = ROOT / "docs" / "map.md"
PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
NO_LINKS = ("CHANGELOG.md", "docs/api.md", "docs/channels.md", "docs/models.md")


def folders() -> set[str]:
    """Each folder of the package that is not hidden, by its path in it."""
    home = ROOT / "unspoken"
    found = {path.relative_to(home) for path in home.rglob("*") if path.is_dir()}
    return {path.as_posix() for path in found if path.name not in ("__pycache__", "templates")}


def test_the_map_names_every_folder_and_no_other():
    named = set(re.findall(r"`([\w/]+)/`", MAP.read_text(encoding="utf-8")))
    assert named == folders()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there_and_are_named_by_their_path(page: str):
    path = ROOT / page
    links = re.findall(r"\[([^\]]*)\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert links or page in NO_LINKS
    missing = [target for _, target in links if not (path.parent / target).exists()]
    assert not missing
    named = [(name, to) for name, to in links if re.fullmatch(r"[\w/]+\.(py|md|json)", name)]
    assert [(name, to) for name, to in named if not to.endswith(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_a_heading_name_one_that_is_there(page: str):
    path = ROOT / page
    words = path.read_text(encoding="utf-8")
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", words):
        text = ((path.parent / target) if target else path).read_text(encoding="utf-8")
        assert heading in {_anchor(line) for line in re.findall(r"^#+ (.*)$", text, re.M)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
