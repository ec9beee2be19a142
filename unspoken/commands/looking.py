"""Look: at a message, at the packaged models, at this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from unspoken.commands.arguments import Json

__all__ = ["doctor", "inspect", "models"]


def inspect(
    file: Annotated[Path, typer.Argument(help="a message that was saved")],
    model: Annotated[str, typer.Option(help="let this model write what the message says")] = "",
    projector: Annotated[
        str, typer.Option(help="folder of the trained module that takes the message in")
    ] = "",
    sign_key: Annotated[
        Path | None,
        typer.Option(help="file with the key of a signature", exists=True, dir_okay=False),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="file with the key of an encryption", exists=True, dir_okay=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="the most bytes to read")] = 2 << 30,
    as_json: Json = False,
) -> None:
    """Show the header, sizes and norms of a message. With --model, also what it says to a model."""
    from unspoken.audit import describe, listen
    from unspoken.wire import Message, Seal

    keys = [path.read_bytes() if path else None for path in (sign_key, key)]
    seal = Seal(sign=keys[0], encrypt=keys[1]) if any(keys) else None
    message = Message.load(file, seal, limit=limit)
    facts = describe(message) | (listen(message, model, projector) if model else {})
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        typer.secho(name, bold=True)
        for line in _lines(value):
            typer.echo(f"  {line}")


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
    verify: Annotated[bool, typer.Option(help="check every byte of a converted model")] = False,
) -> None:
    """List the packaged models, and whether each is converted."""
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


def doctor(as_json: Json = False) -> None:
    """Say whether this machine has what it needs. The exit code is 1 if something is missing."""
    from unspoken.doctor import examine

    health = examine()
    if as_json:
        typer.echo(json.dumps({"found": health.found, "missing": health.missing}))
    else:
        for name, value in health.found.items():
            typer.echo(f"{name:24} {value}")
        for line in health.missing:
            typer.secho(line, fg="red")
    raise typer.Exit(1 if health.missing else 0)
