"""Arguments that several verbs share, and what a shell offers to complete them."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Json", "Overrides", "RecipeName", "complete_recipe", "complete_study"]


def complete_recipe(incomplete: str) -> list[str]:
    """The recipes that ship; a shell completes paths itself."""
    from unspoken.recipe.files import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    """The studies that the recipe on the command line lists."""
    from unspoken.errors import UnspokenError
    from unspoken.recipe.files import listed_studies

    words = ctx.args  # the option has no value yet, so what comes before it was not parsed
    try:
        names = listed_studies(words[0]) if words else []
    except UnspokenError:
        return []
    return [name for name in names if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        help="the name of a recipe that ships, or a YAML file",
        metavar="RECIPE",
        autocompletion=complete_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings of the recipe to change", metavar="KEY=VALUE")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]
