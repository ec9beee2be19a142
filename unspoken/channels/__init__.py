"""Channels: how what one agent computed reaches another."""

from unspoken.channels.base import Channel
from unspoken.channels.constant import Constant
from unspoken.channels.embedding import Embedding
from unspoken.channels.fusion import Fusion
from unspoken.channels.handoff import Handoff
from unspoken.channels.layers import SelectiveLayers
from unspoken.channels.memory import ProjectedMemory
from unspoken.channels.registry import channel_names, make_channel
from unspoken.channels.rollout import LatentRollout
from unspoken.channels.soft import SoftWords
from unspoken.channels.text import TextChannel

__all__ = [
    "Channel",
    "Constant",
    "Embedding",
    "Fusion",
    "Handoff",
    "LatentRollout",
    "ProjectedMemory",
    "SelectiveLayers",
    "SoftWords",
    "TextChannel",
    "channel_names",
    "make_channel",
]
