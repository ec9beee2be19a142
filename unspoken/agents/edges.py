"""Edges: who sends to whom, and over which channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.types import TEXT, Need
from unspoken.wire import LOSSLESS, Message, Packing

__all__ = ["Edge"]


@dataclass(frozen=True, slots=True)
class Edge:
    """`sender` sends messages to `receiver` over `channel`.

    pack: how vectors and caches travel. The receiver gets them with what packing loses.
    shadow: the sender also writes, and the message carries its words for people to read.
    """

    sender: str
    receiver: str
    channel: Channel
    pack: Packing = LOSSLESS
    shadow: bool = False

    @property
    def key(self) -> object:
        """Equal for edges of one sender that carry the same message."""
        return id(self.channel), self.pack, self.shadow

    @property
    def needs(self) -> frozenset[Need]:
        """What the sender has to compute for this edge."""
        return self.channel.needs | {TEXT} if self.shadow else self.channel.needs

    def send(self, state: SenderState) -> Message:
        """The message as it arrives."""
        message = self.channel.send(state)
        if self.shadow:
            assert state.text is not None, "the sender computes what `needs` asks for"
            header = message.header.model_copy(update={"shadow": state.text})
            message = replace(message, header=header)
        return message.pack(self.pack)
