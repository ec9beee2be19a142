"""The commands that pages show: verbs that exist, recipes that load, studies that they list."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from unspoken.cli import app
from unspoken.recipe import load_recipe, measurements

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/walk.md",
    "docs/planner-executor.md",
    "docs/which-channel.md",
    "docs/command-line.md",
    "docs/index.md",
    "docs/papers.md",
    "docs/recipes.md",
    "docs/results.md",
    "docs/tutorials.md",
    "docs/serve.md",
    "docs/watch.md",
)
MADE = {"brevity", "summary"}  # by the steps of CONTRIBUTING.md, which a test of their own takes


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command of `unspoken` in a block or in a sentence."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^(?:\.venv/bin/)?(unspoken .*)$", text, re.M)
    for command in (*blocks, *re.findall(r"`(unspoken [^`]*)`", text)):
        words = shlex.split(command, comments=True)[1:]
        if not any(name in command for name in MADE):
            yield words


@pytest.mark.parametrize("page", PAGES)
def test_every_verb_exists(page: str):
    known = set(get_command(app).commands)
    used = {words[0] for words in commands(page) if not words[0].startswith("-")}
    assert used
    assert used <= known


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_loads_and_lists_the_study_that_is_asked_for(
    page: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        recipes = [word for word in words if re.fullmatch(r"recipes/\w+\.yaml", word)]
        if not recipes:
            continue
        overrides = [word for word in words if re.match(r"[\w.]+=", word)]
        recipe = load_recipe(recipes[0], overrides)
        if words[0] == "measure":
            study = words[words.index("--study") + 1] if "--study" in words else None
            assert measurements(recipe, study)
