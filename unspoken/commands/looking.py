"""Look: at a message, at the packaged models, at this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from unspoken.commands.arguments import Json
from unspoken.commands.saying import say, say_json

__all__ = ["doctor", "inspect", "models"]


def inspect(
    file: Annotated[Path, typer.Argument(help="the file of a message")],
    model: Annotated[str, typer.Option(help="ask this model what the message says")] = "",
    projector: Annotated[
        str, typer.Option(help="folder of the trained projector that reads the message")
    ] = "",
    sign_key: Annotated[
        Path | None, typer.Option(help="file with the key of the signature")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="file with the key of the encryption")] = None,
    limit: Annotated[int, typer.Option(help="the most bytes to read")] = 2 << 30,
    as_json: Json = False,
) -> None:
    """Show the header, sizes and norms of a message, and with --model what a model reads in it."""
    from unspoken.audit import describe, listen
    from unspoken.wire import Message, Seal

    seal = Seal.from_files(sign_key, key)
    message = Message.load(file, seal, limit=limit)
    facts = describe(message) | (listen(message, model, projector) if model else {})
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        say(name, bold=True)
        for line in _lines(value):
            say(f"  {line}", line=True)


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


def models(
    as_json: Json = False,
    verify: Annotated[bool, typer.Option(help="check every byte of converted models")] = False,
) -> None:
    """List the packaged models, and say which are converted and ready for use."""
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
        say_json({"cache": str(cache_folder()), "models": rows})
        return
    for row in rows:
        state = "converted" if row["converted"] else "not converted yet"
        say(f"{row['name']:24} {row['about']} ({row['licence']}); {state}")
    say(f"cache: {cache_folder()}. Any local folder or Hugging Face name works too.")


def doctor(as_json: Json = False) -> None:
    """Check that unspoken can run on this machine. If something is missing, the exit code is 1."""
    from unspoken.doctor import examine

    health = examine()
    if as_json:
        found = {"found": health.found, "missing": health.missing, "notes": health.notes}
        say_json(found | {"verdict": health.verdict})
    else:
        for name, value in health.found.items():
            say(f"{name:24} {'none' if value is None else value}", line=True)
        for line in health.notes:
            say(f"not needed: {line}", line=True)
        for line in health.missing:
            say(line, fg="red")
        say(health.verdict, bold=True, fg="red" if health.missing else "green")
    raise typer.Exit(1 if health.missing else 0)
