"""Recipes that ship: list, show, copy."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from unspoken.commands.arguments import Json, RecipeName
from unspoken.commands.saying import say, say_json

__all__ = ["copy", "names", "show"]


def names(as_json: Json = False) -> None:
    """List the recipes that ship, and say what each does."""
    from unspoken.recipe.files import find_recipe, first_sentence, recipe_names

    found = recipe_names()
    if as_json:
        say_json(found)
        return
    for name in found:
        say(_entry(name, first_sentence(find_recipe(name))))


_NAME = 18


def _entry(name: str, sentence: str) -> str:
    """A name and a sentence: wrapped in a terminal, on one line elsewhere."""
    line = f"{name:{_NAME - 1}} {sentence}"
    if not sys.stdout.isatty():
        return line
    width = max(shutil.get_terminal_size().columns, 2 * _NAME)
    return textwrap.fill(line, width, subsequent_indent=" " * _NAME, break_on_hyphens=False)


def show(name: RecipeName) -> None:
    """Print a recipe."""
    from unspoken.recipe.files import find_recipe, recipe_text

    say(recipe_text(find_recipe(name)), nl=False)


def copy(
    name: RecipeName, folder: Annotated[Path, typer.Argument(help="where the copies go")] = Path()
) -> None:
    """Copy a recipe, and those it builds on, to change them. No file is overwritten."""
    from unspoken.errors import StorageError
    from unspoken.files import write_bytes, writing
    from unspoken.recipe.files import chain

    copies = {source: folder / source.name for source in chain(name)}
    with writing(folder):
        for target in copies.values():
            if target.exists():
                raise StorageError(f"{target} is there already; remove it or choose another folder")
        for source, target in copies.items():
            write_bytes(target, source.read_bytes())
            say(f"wrote {target}")
