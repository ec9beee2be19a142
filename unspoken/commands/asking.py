"""Ask a pipeline: one question, or one after another."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unspoken.commands.arguments import Json, Overrides, complete_recipe
from unspoken.commands.fields import Context, DocumentFiles, FieldWords, query_of
from unspoken.commands.saying import say, say_json

if TYPE_CHECKING:
    from unspoken.pipeline import Pipeline, Run

__all__ = ["ask", "chat"]

Asked = Annotated[
    str,
    typer.Argument(
        help="a recipe of kind pipeline, or the folder of a trained pair",
        metavar="RECIPE",
        autocompletion=complete_recipe,
    ),
]


def ask(
    recipe: Asked,
    question: Annotated[str, typer.Argument(help="what to ask", metavar="QUESTION")],
    overrides: Overrides = None,
    context: Context = "",
    field: FieldWords = None,
    document: DocumentFiles = None,
    as_json: Json = False,
) -> None:
    """Answer one question with a pipeline. The answer streams, and its cost follows."""
    query = query_of(question, context, field, document)
    with _pipeline(recipe, overrides) as pipeline:
        if as_json:
            say_json(_content(pipeline.run(query)))
        else:
            _show(pipeline, query)


def chat(
    recipe: Asked,
    overrides: Overrides = None,
    context: Context = "",
    field: FieldWords = None,
    document: DocumentFiles = None,
) -> None:
    """Ask a pipeline one question after another. An empty line or Ctrl-D ends it."""
    with _pipeline(recipe, overrides) as pipeline, suppress(EOFError):
        while question := input("you: ").strip():
            _show(pipeline, query_of(question, context, field, document))


def _pipeline(recipe: str, overrides: list[str] | None) -> Pipeline:
    from unspoken.errors import RecipeError
    from unspoken.recipe import PipelineRecipe, load_recipe
    from unspoken.recipe.pipeline import build

    if Path(recipe).is_dir():
        return _pair(recipe, overrides)
    plan = load_recipe(recipe, overrides or [])
    if not isinstance(plan, PipelineRecipe):
        raise RecipeError(
            f"{recipe} is a recipe of kind {plan.kind_name()!r}; ask a recipe of kind 'pipeline', "
            "or the folder of a trained pair"
        )
    return build(plan)


def _pair(folder: str, overrides: list[str] | None) -> Pipeline:
    from unspoken.errors import PairError
    from unspoken.relay.pair import load_pipeline

    if overrides:
        raise PairError(
            f"{folder} is asked as it was trained and takes no settings, but {overrides} were "
            "given; leave them out, or train another pair"
        )
    return load_pipeline(folder)


def _show(pipeline: Pipeline, query: dict[str, Any]) -> None:
    from unspoken.view import canvas_view

    def show(words: str) -> None:
        view.close()  # what is written now must not be drawn over
        say(words, nl=False)

    with canvas_view() as view:
        found = pipeline.run(query, on_text=show)
    say()
    for turn in found.turns:
        use = turn.usage
        end = ", cut at max_tokens" if turn.finish == "length" else ""
        say(
            f"{turn.agent}: {use.read} tokens read, {use.written} written, {use.passes} passes, "
            f"{use.wire:,} bytes sent, {use.seconds:.2f} s{end}",
            line=True,
            dim=True,
            err=True,
        )


def _content(found: Run) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "usage": asdict(found.usage)}
