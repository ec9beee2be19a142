"""Edges: who speaks to whom, and over which channel."""

from __future__ import annotations

from dataclasses import dataclass

from unspoken.channels import Channel

__all__ = ["Edge"]


@dataclass(frozen=True, slots=True)
class Edge:
    """`sender` speaks to `receiver` over `channel`."""

    sender: str
    receiver: str
    channel: Channel

    @property
    def key(self) -> object:
        """Equal for edges of one sender that carry the same message."""
        return id(self.channel)
