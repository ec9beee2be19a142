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
    from unspoken.recipe import PipelineRecipe
    from unspoken.sessions import Session

__all__ = ["ask", "chat", "pair", "plan"]

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
    """Ask a pipeline one question. The answer is printed as it is written, and then its cost."""
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
    """Talk with a pipeline. Agents remember what was said. An empty line or Ctrl-D ends it."""
    with _session(recipe, overrides) as talk, suppress(EOFError):
        while question := input("you: ").strip():
            _show_all(talk, query_of(question, context, field, document))


def _pipeline(recipe: str, overrides: list[str] | None) -> Pipeline:
    from unspoken.recipe.pipeline import build

    if Path(recipe).is_dir():
        return pair(recipe, overrides)
    return build(plan(recipe, overrides))


def _session(recipe: str, overrides: list[str] | None) -> Session:
    from unspoken.recipe.pipeline import build, session_of

    if Path(recipe).is_dir():
        return pair(recipe, overrides).session()
    found = plan(recipe, overrides)
    return session_of(found, build(found))


def plan(recipe: str, overrides: list[str] | None) -> PipelineRecipe:
    """A recipe of kind pipeline. Raises `RecipeError` for another kind."""
    from unspoken.errors import RecipeError
    from unspoken.recipe import PipelineRecipe, load_recipe

    found = load_recipe(recipe, overrides or [])
    if not isinstance(found, PipelineRecipe):
        raise RecipeError(
            f"{recipe} is a recipe of kind {found.kind_name()!r}; ask a recipe of kind 'pipeline', "
            "or the folder of a trained pair"
        )
    return found


def pair(folder: str, overrides: list[str] | None) -> Pipeline:
    """The pipeline of a trained pair. Raises `PairError` for settings, as it takes none."""
    from unspoken.errors import PairError
    from unspoken.relay.pair import load_pipeline

    if overrides:
        raise PairError(
            f"{folder} is asked as it was trained and takes no settings, but {overrides} were "
            "given; leave them out, or train another pair"
        )
    return load_pipeline(folder)


def _show(pipeline: Pipeline, query: dict[str, Any]) -> None:
    from unspoken.events import RunEnded, WordsWritten
    from unspoken.view import canvas_view

    with canvas_view() as view, pipeline.stream(query) as events:
        for event in events:
            if isinstance(event, WordsWritten) and event.agent == pipeline.order[-1]:
                view.close()  # what is written now must not be drawn over
                say(event.words, nl=False)
            if isinstance(event, RunEnded):
                say()
                _show_costs(event.run)


def _show_all(talk: Session, query: dict[str, Any]) -> None:
    """Who says what: the answering agent as it writes, the others when they are done."""
    from unspoken.events import RunEnded, TurnEnded, WordsLeftOut, WordsWritten
    from unspoken.view import canvas_view

    begun = False
    with canvas_view() as view, talk.stream(query) as events:
        for event in events:
            if isinstance(event, WordsLeftOut):
                left = event.left_out
                note = f"{left.agent} no longer reads the first {left.exchanges} exchanges"
                note += f", but notes of {left.notes}" if left.notes else ""
                say(note, line=True, dim=True, err=True)
            if isinstance(event, WordsWritten) and event.agent == talk.answerer:
                view.close()  # what is written now must not be drawn over
                say("" if begun else f"{event.agent}: ", line=True, nl=False)
                say(event.words, nl=False)
                begun = True
            if isinstance(event, TurnEnded) and event.agent != talk.answerer and event.turn.text:
                say(f"{event.agent}: ", line=True, nl=False)
                say(event.turn.text)
            if isinstance(event, RunEnded):
                say()
                _show_costs(event.run)


def _show_costs(found: Run) -> None:
    for turn in found.turns:
        use = turn.usage
        known = f", {use.reused} known" if use.reused else ""
        end = ", cut at max_tokens" if turn.finish == "length" else ""
        say(
            f"{turn.agent}: {use.read} tokens read{known}, {use.written} written, "
            f"{use.passes} passes, {use.wire:,} bytes sent, {use.seconds:.2f} s{end}",
            line=True,
            dim=True,
            err=True,
        )


def _content(found: Run) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "usage": asdict(found.usage)}
