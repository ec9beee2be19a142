"""docs/recipes.md has every recipe, with its own first sentence and its first command."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_described_as_it_describes_itself(path: Path):
    head = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    command = next(line for line in head if line.startswith("unspoken ")).partition("   #")[0]
    row = f"| [{path.name}](../recipes/{path.name}) | {head[0]} | `{command.strip()}` |"
    assert row in PAGE.splitlines()


def test_no_other_recipe_is_described():
    assert PAGE.count("](../recipes/") == len(RECIPES)
