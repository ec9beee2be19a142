"""Verbs that are gone. Each prints the command that does the same today."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

import typer

from unspoken.commands.saying import say

__all__ = ["FORMER", "former"]

FORMER: Mapping[str, tuple[str, ...]] = {
    "run": (),
    "compare": ("comparison", "reuse", "planner"),
    "worth": ("information",),
    "rate": ("rate",),
    "edges": ("edges",),
    "plan": ("teams",),
    "telephone": ("telephone",),
}
"""Each former verb with the studies that it ran; `run` asked a pipeline."""


def former(verb: str) -> Callable[[typer.Context], None]:
    """A command that says what to write instead of `verb`, and ends with exit code 2."""

    def command(ctx: typer.Context) -> None:
        command_line = shlex.join(_today(verb, ctx.args))
        say(f"`unspoken {verb}` is gone; write: {command_line}", fg="red", err=True)
        raise typer.Exit(2)

    return command


def _today(verb: str, given: Sequence[str]) -> list[str]:
    recipe = next((word for word in given if not word.startswith("-")), None)
    words = ["RECIPE", *given] if recipe is None else list(given)
    if verb == "run":
        return ["unspoken", "ask", *words, *(["QUESTION"] if len(given) < 2 else [])]
    options = [word for study in _studies(verb, recipe) for word in ("--study", study)]
    return ["unspoken", "measure", *words, *options]


def _studies(verb: str, recipe: str | None) -> Sequence[str]:
    """What the verb ran of the studies that the recipe lists; its first, if that cannot be said."""
    from unspoken.errors import UnspokenError
    from unspoken.recipe.files import listed_studies

    try:
        listed = listed_studies(recipe) if recipe else []
    except UnspokenError:
        listed = []
    return [study for study in FORMER[verb] if study in listed] or FORMER[verb][:1]
