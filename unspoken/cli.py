"""The command line: its verbs in order, and how it ends."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from unspoken import __version__
from unspoken.commands import shipped
from unspoken.commands.asking import ask, chat
from unspoken.commands.former import FORMER, former
from unspoken.commands.looking import doctor, inspect, models
from unspoken.commands.measuring import measure, report, stale, train
from unspoken.commands.saying import say, say_traceback
from unspoken.commands.serving import serve, watch

__all__ = ["main"]

app = typer.Typer(
    help="Agents that wrap local language models exchange words, vectors or caches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(help="List, show and copy the recipes that ship.", no_args_is_help=True)
recipes.command("ls")(shipped.names)
recipes.command("show")(shipped.show)
recipes.command("cp")(shipped.copy)


def _print_version(asked: bool) -> None:
    if asked:
        say(f"unspoken {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


for verb in (ask, chat, serve, watch, train, measure, report, stale, inspect):
    app.command()(verb)
app.add_typer(recipes, name="recipes")
for verb in (models, doctor):
    app.command()(verb)
for name in FORMER:
    app.command(
        name,
        hidden=True,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(former(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors of ours and of the system become one line and exit code 1.

    Ctrl-C becomes exit code 130.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve a busy machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():  # bars of transformers, in a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _keep_freed_memory()
    sys.excepthook = say_traceback
    from unspoken.errors import UnspokenError, WorkerError

    try:
        app(args=arguments, prog_name="unspoken")
    except UnspokenError as error:
        _tell(error)
        if isinstance(error, WorkerError):
            for note in getattr(error, "__notes__", ()):  # the trace in the worker
                say(note, dim=True, err=True)
        sys.exit(1)
    except OSError as error:
        from unspoken.files import fault

        told = fault(error)
        if told is None:
            raise
        _tell(told)
        sys.exit(1)
    except SystemExit as end:
        if end.code == _STOPPED:
            say("stopped; run the same command again to continue", fg="red", err=True)
        raise


def _tell(error: Exception) -> None:
    line = " ".join(f"{type(error).__name__}: {error}".split("\n"))
    say(line, fg="red", err=True)


def _keep_freed_memory() -> None:
    """Have glibc keep up to 2 GiB that is freed: the next training step asks for it again."""
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


_STOPPED = 130  # what typer makes of Ctrl-C
