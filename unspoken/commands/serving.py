"""Serve pipelines to clients of OpenAI's API, and to a page that shows their agents at work."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unspoken.commands.arguments import complete_recipe
from unspoken.commands.saying import say

if TYPE_CHECKING:
    from unspoken.serving import Bounds, ServedPipeline

__all__ = ["serve", "watch"]

Served = Annotated[
    list[str],
    typer.Argument(
        help="recipes of kind pipeline, or folders of trained pairs; KEY=VALUE after a recipe "
        "changes its settings",
        metavar="RECIPE [KEY=VALUE ...]",
        autocompletion=complete_recipe,
    ),
]


def serve(
    recipes: Served,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free port", min=0, max=65535)] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(help="a file with a key on each line; without keys only this machine may ask"),
    ] = None,
    running: Annotated[int, typer.Option(help="answers that are computed at once", min=1)] = 32,
    waiting: Annotated[int, typer.Option(help="requests that may wait", min=0)] = 128,
    max_tokens: Annotated[int, typer.Option(help="tokens of the longest answer", min=1)] = 4096,
    seconds: Annotated[float, typer.Option(help="seconds that a turn may take", min=1)] = 300.0,
    cache_mib: Annotated[int, typer.Option(help="MiB of caches that are kept", min=0)] = 2048,
    cache_folder: Annotated[
        Path | None,
        typer.Option(help="where caches are kept when the server ends, for the next start"),
    ] = None,
) -> None:
    """Serve pipelines as models of OpenAI's API. At Ctrl-C it answers what it has, and ends."""
    from unspoken.serving import Bounds, read_keys

    known = read_keys(keys)
    bounds = Bounds(
        running=running,
        waiting=waiting,
        waiting_each=max(1, waiting // 2) if len(known) > 1 else waiting,
        max_tokens=max_tokens,
        seconds=seconds,
        cache=cache_mib << 20,
    )

    def ready(address: str, names: Sequence[str]) -> None:
        say(f"serving {', '.join(names)} at {address}/v1")

    _run(recipes, known, host, port, bounds, ready, cache_folder)


def watch(
    recipes: Served,
    port: Annotated[int, typer.Option(help="0 takes any free port", min=0, max=65535)] = 8000,
    browser: Annotated[bool, typer.Option(help="whether to open a browser")] = True,
) -> None:
    """Serve pipelines to this machine, and open a page that shows their agents at work."""
    from unspoken.serving import Bounds, read_keys

    def ready(address: str, names: Sequence[str]) -> None:
        say(f"watch {', '.join(names)} at {address}")
        if browser:  # in a thread, as a browser in the terminal returns when it is closed
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    _run(recipes, read_keys(None), "127.0.0.1", port, Bounds(), ready)


def _run(
    recipes: Sequence[str],
    keys: tuple[str, ...],
    host: str,
    port: int,
    bounds: Bounds,
    ready: Callable[[str, Sequence[str]], None],
    folder: Path | None = None,
) -> None:
    """Serve recipes. ready: gets the address and the names of pipelines."""
    from unspoken.serving import Guard
    from unspoken.serving import serve as run

    given = dict(_named(recipes))
    Guard(keys, host)  # refuses before anything is loaded
    load = _loader()
    served = {name: _served(recipe, more, load) for name, (recipe, more) in given.items()}

    def at(address: str) -> None:
        ready(address, list(served))

    run(served, keys=keys, host=host, port=port, bounds=bounds, folder=folder, ready=at)


def _named(words: Sequence[str]) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Each recipe by the name under which it is served, with its settings."""
    from unspoken.errors import RecipeError

    found: dict[str, tuple[str, list[str]]] = {}
    more: list[str] | None = None
    for word in words:
        if "=" in word and not Path(word).exists():
            if more is None:
                raise RecipeError(f"the setting {word!r} comes before any recipe; put it after one")
            more.append(word)
            continue
        name, more = Path(word).stem, []
        if name in found:
            raise RecipeError(
                f"{found[name][0]} and {word} would both be served as {name!r}; copy one to a file "
                "of another name"
            )
        found[name] = word, more
    yield from found.items()


def _loader() -> Callable[..., Any]:
    """Loads each model once, for all pipelines, so that they write in one batch."""
    from unspoken.engines import load_in

    return cache(load_in)


def _served(recipe: str, overrides: list[str], load: Callable[..., Any]) -> ServedPipeline:
    from unspoken.commands.asking import pair, plan
    from unspoken.recipe.pipeline import build
    from unspoken.serving import ServedPipeline

    if Path(recipe).is_dir():
        return ServedPipeline(pair(recipe, overrides))
    found = plan(recipe, overrides)
    session = found.session
    return ServedPipeline(build(found, load), keep=session.keep, window=session.window)
