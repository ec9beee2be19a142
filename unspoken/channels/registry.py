"""Channels by name: our own, and those that other packages register as entry points.

A package adds a channel with one line in its pyproject.toml. Nothing changes here:

    [project.entry-points."unspoken.channels"]
    telepathy = "telepathy.channel:Telepathy"
"""

from __future__ import annotations

from typing import Any

from unspoken.channels.base import Channel
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
    """Make a channel by name. Raises `UnknownName` with a did-you-mean.

    >>> make_channel("text", limit=16).limit
    16
    """
    made = _CHANNELS.find(kind)
    try:
        return made(**options)
    except TypeError as error:
        raise ValueError(f"channel {kind!r} does not take these options: {error}") from error
