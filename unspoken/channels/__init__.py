"""Channels: how one agent's thought reaches another."""

from unspoken.channels.base import Channel
from unspoken.channels.constant import Constant
from unspoken.channels.embedding import Embedding
from unspoken.channels.handoff import Handoff
from unspoken.channels.registry import channel_names, make_channel
from unspoken.channels.text import TextChannel

__all__ = [
    "Channel",
    "Constant",
    "Embedding",
    "Handoff",
    "TextChannel",
    "channel_names",
    "make_channel",
]
