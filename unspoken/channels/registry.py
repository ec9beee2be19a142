"""Channels by name: our own, and those that other packages register as entry points.

A package adds a channel with one line in its pyproject.toml. Nothing changes here:

    [project.entry-points."unspoken.channels"]
    telepathy = "telepathy.channel:Telepathy"
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import Parameter, getdoc, signature
from typing import Any

from unspoken.channels.base import Channel
from unspoken.errors import SettingsError
from unspoken.plugins import Registry

__all__ = ["channel_names", "make_channel"]

_OWN = {
    "constant": "unspoken.channels.constant:Constant",
    "embedding": "unspoken.channels.embedding:Embedding",
    "fusion": "unspoken.channels.fusion:Fusion",
    "handoff": "unspoken.channels.handoff:Handoff",
    "layers": "unspoken.channels.layers:SelectiveLayers",
    "memory": "unspoken.channels.memory:ProjectedMemory",
    "rollout": "unspoken.channels.rollout:LatentRollout",
    "soft": "unspoken.channels.soft:SoftWords",
    "text": "unspoken.channels.text:TextChannel",
}
_CHANNELS = Registry("channel", "unspoken.channels", _OWN)


def channel_names() -> list[str]:
    """Every channel that can be made here."""
    return _CHANNELS.names()


def make_channel(kind: str, **options: Any) -> Channel:
    """Make a channel by name.

    Raises `UnknownName` with a did-you-mean, and `SettingsError` for a setting that the channel
    does not have, or needs and is not given. What its constructor raises is passed on.

    >>> make_channel("text", limit=16).limit
    16
    >>> make_channel("text", limt=16)
    Traceback (most recent call last):
        ...
    unspoken.errors.SettingsError: channel 'text' has no setting 'limt'; did you mean 'limit'? \
Settings: verbatim=False, limit=None, reasoning=False.
    """
    made = _CHANNELS.find(kind)
    _check(kind, made, options)
    return made(**options)


def _check(kind: str, made: Any, options: Iterable[str]) -> None:
    """Raise `SettingsError` if these are not the settings of a channel."""
    parameters = signature(made).parameters.values()
    named = {
        one.name: one
        for one in parameters
        if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    known = ", ".join(map(_shown, named.values())) or "none"
    takes_all = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    for odd in () if takes_all else [name for name in options if name not in named]:
        close = get_close_matches(odd, named, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise SettingsError(f"channel {kind!r} has no setting {odd!r}{hint} Settings: {known}.")
    for one in named.values():
        if one.default is Parameter.empty and one.name not in options:
            what = _purpose(made, one)
            raise SettingsError(
                f"channel {kind!r} needs the setting {one.name!r}{what} Settings: {known}."
            )


def _shown(one: Parameter) -> str:
    needed = one.default is Parameter.empty
    return f"{one.name} (needed)" if needed else f"{one.name}={one.default!r}"


def _purpose(made: Any, one: Parameter) -> str:
    """What a setting is for, by the sentence of the docstring that begins with its name."""
    found = re.search(rf"\b{one.name}: (.+?\.)(?:\s|$)", getdoc(made) or "", re.DOTALL)
    if found is not None:
        return f": {' '.join(found[1].split())}"
    kind = str(one).partition(": ")[2].strip("'")
    return f", of type {kind}." if kind else "."
