"""Edges: who sends to whom, and over which channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel

from unspoken.channels import Channel, make_channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import PipelineError, require
from unspoken.types import TEXT, Need
from unspoken.wire import LOSSLESS, Message, Packing

__all__ = ["Edge"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Edge:
    """`sender` sends messages to `receiver` over `channel`, or over the one of that name.

    pack: how vectors and caches travel. The receiver gets them with what packing loses.
    shadow: the sender also writes, and the message carries its words for people to read.
    """

    sender: str
    receiver: str
    channel: Channel
    pack: Packing
    shadow: bool

    def __init__(
        self,
        sender: str,
        receiver: str,
        channel: Channel | str,
        pack: Packing = LOSSLESS,
        shadow: bool = False,
    ) -> None:
        made = make_channel(channel) if isinstance(channel, str) else channel
        checks: list[tuple[str, object, type, str]] = [
            ("sender", sender, str, "the name of an agent"),
            ("receiver", receiver, str, "the name of an agent"),
            ("channel", made, Channel, "a channel, or the name of one"),
            ("pack", pack, BaseModel, "a packing, such as Int8()"),
        ]
        for what, given, kind, allowed in checks:
            require(isinstance(given, kind), f"{what} of an edge", given, allowed, PipelineError)
        for name, value in zip(self.__slots__, (sender, receiver, made, pack, shadow), strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        more = [f"pack={self.pack!r}"] if self.pack != LOSSLESS else []
        more += ["shadow=True"] if self.shadow else []
        parts = (repr(self.sender), repr(self.receiver), repr(self.channel), *more)
        return f"Edge({', '.join(parts)})"

    def repeats(self, other: Edge) -> bool:
        """Whether it carries between the same agents what the other edge carries."""
        ends = (self.sender, self.receiver) == (other.sender, other.receiver)
        return ends and self.pack == other.pack and self.channel.is_like(other.channel)

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
