"""The command line. Heavy imports stand inside the commands, so that it starts at once."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from unspoken.pipeline import Pipeline, Run
    from unspoken.studies.planner import PlannerExecutorRecipe

__all__ = ["main"]

app = typer.Typer(
    help="Agents wrap local language models and exchange messages over words, vectors or caches.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="Recipes that ship: list, show, copy.", no_args_is_help=True)
app.add_typer(recipes, name="recipes")

Overrides = Annotated[list[str] | None, typer.Argument(help="settings as key=value")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="a recipe of kind pipeline")],
    question: Annotated[str, typer.Argument(help="what to ask")],
    overrides: Overrides = None,
    context: Annotated[str, typer.Option(help="what an agent that reads {context} is told")] = "",
    as_json: Json = False,
) -> None:
    """Answer one question with a pipeline; the answer streams, its cost follows."""
    query = {"question": question, "context": context}
    with _pipeline(recipe, overrides) as line:
        if as_json:
            typer.echo(json.dumps(_told(line.run(query)), ensure_ascii=False))
            return
        _show(line, query)


@app.command()
def chat(
    recipe: Annotated[str, typer.Argument(help="a recipe of kind pipeline")],
    overrides: Overrides = None,
) -> None:
    """Ask a pipeline one question after another; an empty line or Ctrl-D ends it."""
    with _pipeline(recipe, overrides) as line, suppress(EOFError):
        while question := input("you: ").strip():
            _show(line, {"question": question, "context": ""})


@app.command()
def train(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train a projector or a planner by recipe; a run that was stopped goes on where it was."""
    from unspoken.recipe import ProjectorRecipe, load_recipe
    from unspoken.relay.relay import Relay
    from unspoken.relay.train import train_projector
    from unspoken.studies.planner import PlannerExecutorRecipe, PlannerRecipe, train_planner
    from unspoken.tasks import load_task

    plan = load_recipe(recipe, overrides or [])
    if isinstance(plan, PlannerRecipe | PlannerExecutorRecipe):
        planner, home = train_planner(plan, load_task(plan.task), plan.out / "trained")
        what, trained = "planner", planner.model
    elif isinstance(plan, ProjectorRecipe):
        trained, home = train_projector(Relay.of(plan), plan.out / "trained")
        what = "projector"
    else:
        raise _wrong(recipe, plan.kind_name(), "projector, relay, planner or planner_executor")
    count = sum(parameter.numel() for parameter in trained.parameters())
    if as_json:
        typer.echo(json.dumps({"folder": str(home), "parameters": count}))
    else:
        typer.echo(f"{what} of {count:,} parameters in {home}")


@app.command()
def compare(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Compare channels with their controls, training what is missing, or dense reads with pools."""
    from unspoken.recipe import RelayRecipe, load_recipe
    from unspoken.results import refresh
    from unspoken.studies.comparison import run_comparison
    from unspoken.studies.planner import PlannerExecutorRecipe
    from unspoken.studies.reuse import ReuseRecipe, run_reuse

    plan = load_recipe(recipe, overrides or [])
    if isinstance(plan, PlannerExecutorRecipe):
        _compare_planners(plan, as_json)
        return
    if not isinstance(plan, RelayRecipe | ReuseRecipe):
        raise _wrong(recipe, plan.kind_name(), "relay, reuse or planner_executor")
    report = run_comparison(plan) if isinstance(plan, RelayRecipe) else run_reuse(plan)
    refresh(plan.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote results.json, the report and predictions to {plan.out}")


@app.command()
def worth(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Measure what each channel's messages are worth to the receiver, in bits."""
    from unspoken.recipe import RelayRecipe, load_recipe
    from unspoken.results import refresh
    from unspoken.studies.information import run_information

    plan = load_recipe(recipe, overrides or [])
    if not isinstance(plan, RelayRecipe):
        raise _wrong(recipe, plan.kind_name(), "relay")
    report = run_information(plan)
    refresh(plan.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote worth.json and worth.md to {plan.out}")


@app.command()
def rate(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Sweep the length of messages: bytes, positions and bits against wrong answers, drawn."""
    from unspoken.recipe import load_recipe
    from unspoken.results import refresh
    from unspoken.studies.rate import RateRecipe, run_rate

    plan = load_recipe(recipe, overrides or [])
    if not isinstance(plan, RateRecipe):
        raise _wrong(recipe, plan.kind_name(), "rate")
    report = run_rate(plan)
    refresh(plan.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote rate.json, rate.md and rate.png to {plan.out}")


@app.command()
def edges(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Measure what each edge of a pipeline is worth; prune it, and learn a sparse graph."""
    from unspoken.recipe import load_recipe
    from unspoken.results import refresh
    from unspoken.studies.edges import EdgesRecipe, run_edges

    plan = load_recipe(recipe, overrides or [])
    if not isinstance(plan, EdgesRecipe):
        raise _wrong(recipe, plan.kind_name(), "edges")
    report = run_edges(plan)
    refresh(plan.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote edges.json, edges.md and edges.png to {plan.out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="what a measurement wrote to")],
    again: Annotated[Path | None, typer.Option(help="run all of it anew, into this folder")] = None,
    as_json: Json = False,
) -> None:
    """Write one page of all results in a folder; with --again, recompute every number first."""
    if again is not None:
        from unspoken.results import run_again

        run_again(folder, again)
    from unspoken.results import write_page

    path = write_page(again or folder)
    typer.echo(json.dumps({"page": str(path)}) if as_json else f"wrote {path}")


@app.command()
def plan(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Calibrate on a task when a team pays, plan one under a budget, and check a vote of three."""
    from unspoken.recipe import load_recipe
    from unspoken.results import refresh
    from unspoken.studies.teams import PlanRecipe, run_plan

    found = load_recipe(recipe, overrides or [])
    if not isinstance(found, PlanRecipe):
        raise _wrong(recipe, found.kind_name(), "plan")
    report = run_plan(found)
    refresh(found.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote plan.json, plan.md and plan.png to {found.out}")


@app.command()
def telephone(recipe: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """Pass facts on, hop by hop, over each channel: accuracy and drift, and the wrong message."""
    from unspoken.recipe import load_recipe
    from unspoken.results import refresh
    from unspoken.studies.telephone import TelephoneRecipe, run_telephone

    found = load_recipe(recipe, overrides or [])
    if not isinstance(found, TelephoneRecipe):
        raise _wrong(recipe, found.kind_name(), "telephone")
    report = run_telephone(found)
    refresh(found.out)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        return
    _print(report.table(), report.findings())
    typer.echo(f"wrote telephone.json, telephone.md and telephone.png to {found.out}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="a message that was saved")],
    model: Annotated[str, typer.Option(help="let this model say what it reads")] = "",
    projector: Annotated[str, typer.Option(help="folder of what takes the message in")] = "",
    sign_key: Annotated[Path | None, typer.Option(help="file with the key of a signature")] = None,
    key: Annotated[Path | None, typer.Option(help="file with the key of an encryption")] = None,
    limit: Annotated[int, typer.Option(help="the most bytes that are read")] = 2 << 30,
    as_json: Json = False,
) -> None:
    """Show what a message is: header, sizes, norms; and, to a model, what it says."""
    from unspoken.audit import describe, listen
    from unspoken.wire import Message, Seal

    keys = [path.read_bytes() if path else None for path in (sign_key, key)]
    seal = Seal(sign=keys[0], encrypt=keys[1]) if any(keys) else None
    message = Message.load(file, seal, limit=limit)
    told = describe(message) | (listen(message, model, projector) if model else {})
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    for name, value in told.items():
        typer.secho(name, bold=True)
        for line in _lines(value):
            typer.echo(f"  {line}")


@app.command()
def models(as_json: Json = False, verify: bool = False) -> None:
    """The packaged models; with --verify every byte of a converted one is checked."""
    from unspoken.models import PACKAGED, cache_folder, is_ready
    from unspoken.models import verify as verified

    rows = [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "converted": verified(model) if verify else is_ready(model),
        }
        for model in PACKAGED.values()
    ]
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "models": rows}))
        return
    for row in rows:
        state = "converted" if row["converted"] else "not converted yet"
        typer.echo(f"{row['name']:24} {row['about']} ({row['licence']}); {state}")
    typer.echo(f"cache: {cache_folder()}. Any local folder or Hugging Face name works too.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Whether this machine has what it needs; exit code 1 if something is missing."""
    from importlib.metadata import PackageNotFoundError, version

    from unspoken.errors import MissingExtra
    from unspoken.models import PACKAGED, cache_folder

    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    missing: list[str] = []
    for package, extra in _PACKAGES.items():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(f"{package} is not installed; pip install '{extra}'")
    for model in PACKAGED.values():
        try:
            found[model.name] = str(model.paths[0])
        except MissingExtra as error:
            missing.append(str(error))
    cache = cache_folder()
    while not cache.exists():
        cache = cache.parent
    found["cache"], found["free GB"] = str(cache_folder()), shutil.disk_usage(cache).free >> 30
    if not os.access(cache, os.W_OK):
        missing.append(f"{cache} is not writable; set UNSPOKEN_CACHE to a folder that is")
    if as_json:
        typer.echo(json.dumps({"found": found, "missing": missing}))
    else:
        for name, value in found.items():
            typer.echo(f"{name:24} {value}")
        for line in missing:
            typer.secho(line, fg="red")
    raise typer.Exit(1 if missing else 0)


_PACKAGES = {
    "torch": "unspoken",
    "transformers": "unspoken",
    "accelerate": "unspoken",
    "jinja2": "unspoken",
    "gguf": "unspoken[models]",
    "scipy": "unspoken[compare]",
    "matplotlib": "unspoken[compare]",
    "peft": "unspoken[lora]",
    "ray": "unspoken[ray]",
    "cryptography": "unspoken[seal]",
    "lm-eval": "unspoken[lm-eval]",
}


@recipes.command("ls")
def recipes_ls(as_json: Json = False) -> None:
    """List the recipes."""
    from unspoken.recipe import find_recipe, recipe_names

    names = recipe_names()
    if as_json:
        typer.echo(json.dumps(names))
        return
    for name in names:
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
        typer.echo(f"{name:20} {first.lstrip('# ')}")


@recipes.command("show")
def recipes_show(name: str) -> None:
    """Print a recipe."""
    from unspoken.recipe import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes.command("cp")
def recipes_cp(
    name: str, folder: Annotated[Path, typer.Argument(help="where the copies go")] = Path()
) -> None:
    """Copy a recipe, and those it continues, to change them; nothing is overwritten."""
    from unspoken.recipe.loading import chain

    copies = {source: folder / source.name for source in chain(name)}
    for target in copies.values():
        if target.exists():
            typer.secho(
                f"{target} is there already; remove it or choose a folder", fg="red", err=True
            )
            raise typer.Exit(1)
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in copies.items():
        shutil.copyfile(source, target)
        typer.echo(f"wrote {target}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors of ours become one line and exit code 1, Ctrl-C exit code 130."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve a busy machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _keep_freed_memory()
    from unspoken.errors import UnspokenError, WorkerError

    try:
        app(args=arguments)
    except UnspokenError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        if isinstance(error, WorkerError):
            for note in getattr(error, "__notes__", ()):  # the trace in the worker
                typer.secho(note, dim=True, err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == _STOPPED:
            typer.secho("stopped; run the same command again to go on", fg="red", err=True)
        raise


def _keep_freed_memory() -> None:
    """Have glibc keep up to 2 GiB that is freed: the next training step asks for it again."""
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


_STOPPED = 130  # what typer makes of Ctrl-C


def _compare_planners(plan: PlannerExecutorRecipe, as_json: bool) -> None:
    from dataclasses import asdict

    from unspoken.results import refresh
    from unspoken.studies.comparison import run_comparison
    from unspoken.studies.planner import run_planner

    report, found = run_comparison(plan), run_planner(plan)
    refresh(plan.out)
    if as_json:
        blame = [asdict(one) for one in found.blame]
        typer.echo(json.dumps({**report.to_dict(), "blame": blame}))
        return
    _print(report.table(), report.findings())
    _print(found.table(), [])
    typer.echo(f"wrote results.json, blame.json, the report and predictions to {plan.out}")


def _pipeline(recipe: str, overrides: list[str] | None) -> Pipeline:
    from unspoken.recipe import PipelineRecipe, load_recipe
    from unspoken.recipe.pipeline import build

    plan = load_recipe(recipe, overrides or [])
    if not isinstance(plan, PipelineRecipe):
        raise _wrong(recipe, plan.kind_name(), "pipeline")
    return build(plan)


def _print(table: Table, findings: Sequence[str]) -> None:
    from rich.console import Console

    Console().print(table)
    for line in findings:
        typer.echo(line)


def _wrong(recipe: str, kind: str, wanted: str) -> Exception:
    from unspoken.errors import RecipeError

    return RecipeError(f"{recipe} is a recipe of kind {kind!r}; this command takes {wanted}")


def _show(line: Pipeline, query: dict[str, str]) -> None:
    from unspoken.view import canvas_view

    def say(words: str) -> None:
        view.close()  # what is written now must not be drawn over
        typer.echo(words, nl=False)

    with canvas_view() as view:
        found = line.run(query, on_text=say)
    typer.echo()
    for turn in found.turns:
        use = turn.usage
        typer.secho(
            f"{turn.agent}: {use.read} tokens read, {use.written} written, {use.passes} passes, "
            f"{use.wire:,} bytes sent, {use.seconds:.2f} s",
            dim=True,
            err=True,
        )


_MOST = 8


def _lines(value: Any) -> list[str]:
    """A value for people: a line for each field or entry, long lists cut."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return [f"{key}: {'; '.join(_lines(part))}" for key, part in fields.items()]
    if isinstance(value, list):
        entries = cast(list[Any], value)
        shown = ["; ".join(_lines(entry)) for entry in entries[:_MOST]]
        return shown + ([f"and {len(entries) - _MOST} more"] if len(entries) > _MOST else [])
    return [str(value)]


def _told(found: Run) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "usage": asdict(found.usage)}
