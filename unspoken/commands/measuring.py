"""Train, measure, and report what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unspoken.commands.arguments import Json, Overrides, RecipeName, complete_study
from unspoken.commands.saying import say, say_json
from unspoken.terminal import PlainConsole

if TYPE_CHECKING:
    from unspoken.recipe.measuring import Measurement

__all__ = ["measure", "report", "stale", "train"]

Studies = Annotated[
    list[str] | None,
    typer.Option(
        "--study",
        help="run only this study; may be given several times",
        metavar="NAME",
        autocompletion=complete_study,
    ),
]


def train(recipe: RecipeName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train what a recipe describes. If you stop it and run it again, it goes on where it was."""
    from unspoken.recipe import load_recipe
    from unspoken.relay.train import train_by

    trained = train_by(load_recipe(recipe, overrides or []))
    if as_json:
        content = {"folder": str(trained.folder), "parameters": trained.parameters}
        say_json(content)
    else:
        say(f"{trained.what} of {trained.parameters:,} parameters in {trained.folder}")


def measure(
    recipe: RecipeName,
    overrides: Overrides = None,
    study: Studies = None,
    as_json: Json = False,
) -> None:
    """Run the studies that a recipe lists. What is missing is trained first."""
    from unspoken.recipe import load_recipe
    from unspoken.recipe.measuring import measurements
    from unspoken.results import refresh

    plan = load_recipe(recipe, overrides or [])
    names = dict.fromkeys(study) if study else [None]
    listed = [one for name in names for one in measurements(plan, name)]
    found: dict[str, Any] = {}
    page: Path | None = None
    for one in listed:
        found[one.study.name] = _measured(one, quiet=as_json)
        page = refresh(plan.out)  # after each, so that a later failure leaves a page of the others
    if as_json:
        say_json(found)
    elif page is not None:
        say(f"wrote {page}")


def _measured(measurement: Measurement, *, quiet: bool) -> dict[str, Any]:
    """The content of a study's result, which is printed too unless `quiet`."""
    study, result = measurement.study, measurement.run()
    if not quiet:
        say(f"{study.name}: {study.title}", bold=True)
        PlainConsole().print(result.table())
        for line in result.findings():
            say(line)
        say(f"wrote {measurement.out / study.file}\n")
    return result.to_dict()


def report(
    folder: Annotated[
        Path, typer.Argument(help="the folder that a measurement wrote to", metavar="FOLDER")
    ],
    again: Annotated[
        Path | None, typer.Option(help="run everything again, and write to this folder")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a page, report.html, from all results in a folder."""
    from unspoken.results import run_again, write_page

    if again is not None:
        run_again(folder, again)
    path = write_page(again or folder)
    if as_json:
        say_json({"page": str(path)})
    else:
        say(f"wrote {path}")


def stale(
    places: Annotated[
        list[Path],
        typer.Argument(help="result files, or folders of them", metavar="FILE|FOLDER ..."),
    ],
    as_json: Json = False,
) -> None:
    """Say which results were made by other code than the present. If any, the exit code is 1."""
    from unspoken.errors import DataError
    from unspoken.evaluation.freshness import freshness

    found = {path: freshness(content) for place in places for path, content in _results(place)}
    if not found:
        raise DataError(f"{', '.join(map(str, places))}: no result is there; name some")
    if as_json:
        told = {path: {"state": one.state, "changed": one.changed} for path, one in found.items()}
        say_json({str(path): one for path, one in told.items()})
    else:
        for path, one in found.items():
            many = f", {len(one.changed)} of {one.files} files have changed" if one.changed else ""
            say(f"{path}: {one.state}{many}", line=True)
            for name in one.changed:
                say(f"  {name}", line=True)
    if any(one.changed for one in found.values()):
        raise typer.Exit(1)


def _results(place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file, or each file of a folder that says on which machine it was made."""
    from unspoken.errors import Damaged
    from unspoken.kept import read_json

    if not place.is_dir():
        yield place, read_json(place)
        return
    for path in sorted(place.rglob("*.json")):
        with suppress(Damaged):
            if "machine" in (content := read_json(path)):
                yield path, content
