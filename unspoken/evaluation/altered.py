"""Channels whose messages are altered on the way: cut short, or replaced by noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from hashlib import sha256
from typing import ClassVar

import torch
from torch import Tensor

from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import PipelineError
from unspoken.types import (
    CacheSegment,
    Context,
    KVCache,
    Need,
    Prompt,
    Segment,
    Spec,
    Text,
    Vectors,
)
from unspoken.wire import Message

__all__ = ["Altered", "Noise", "Prefix"]


class Altered(Channel):
    """Another channel, and a change to what it sends: vectors (B, S, W) or a cache.

    Raises `PipelineError` for a channel whose message comes before the whole prompt, because its
    first positions are the instructions'.
    """

    name: ClassVar[str] = "altered"

    def __init__(self, channel: Channel) -> None:
        if channel.in_front:
            raise PipelineError(
                f"the message of {channel.name!r} begins with the instructions and is not altered; "
                "choose a channel whose message is in the prompt's slot"
            )
        self.channel = channel

    @abstractmethod
    def alter(self, payload: Vectors | CacheSegment) -> Segment:
        """What travels instead of the payload."""

    @property
    def reads(self) -> tuple[type[Segment], ...]:
        return self.channel.reads

    @property
    def needs(self) -> frozenset[Need]:
        return self.channel.needs

    def send(self, state: SenderState) -> Message:
        message = self.channel.send(state)
        if isinstance(message.payload, Text):
            raise PipelineError(
                f"channel {self.channel.name!r} sends words; give it a limit of tokens instead"
            )
        return Message(message.header, self.alter(message.payload))

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        return self.channel.write(message, prompt)

    def fuse(self, message: Message, context: Context) -> Context:
        return self.channel.fuse(message, context)

    def accept(self, message: Message, receiver: Spec) -> None:
        self.channel.accept(message, receiver)

    def check(self, sender: Spec, receiver: Spec) -> None:
        self.channel.check(sender, receiver)


class Prefix(Altered):
    """The first `limit` positions of each row of a message."""

    def __init__(self, channel: Channel, limit: int) -> None:
        super().__init__(channel)
        if limit < 1:
            raise PipelineError(f"a message keeps at least 1 position, got limit={limit}")
        self.limit = limit

    def alter(self, payload: Vectors | CacheSegment) -> Segment:
        mask = payload.mask & (payload.mask.cumsum(1) <= self.limit)
        if isinstance(payload, CacheSegment) and payload.spelling is not None:
            ends = payload.spelling.ends.masked_fill(~mask, -1)
            payload = replace(payload, spelling=replace(payload.spelling, ends=ends))
        return replace(payload, mask=mask).rows(slice(None))


class Noise(Altered):
    """Random numbers with the mean and spread that each dimension has in the message.

    Moments are taken over all real positions of the batch. A message gets the same noise every
    time, by `seed`. Any gain that is left does not come from the content.
    """

    def __init__(self, channel: Channel, seed: int = 0) -> None:
        super().__init__(channel)
        self.seed = seed

    def alter(self, payload: Vectors | CacheSegment) -> Segment:
        if isinstance(payload, Vectors):
            return Vectors(self._like(payload.values, payload.mask), payload.mask)

        def noise(cache: Tensor) -> Tensor:
            return self._like(cache.transpose(1, 2), payload.mask).transpose(1, 2)

        kv = tuple((noise(k), noise(v)) for k, v in payload.kv)
        return replace(payload, cache=KVCache(kv))

    def _like(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, S, ...) for (B, S, ...), zero where no position is real."""
        real = values[mask].float()
        if not len(real):
            return values
        draw = torch.Generator().manual_seed(_number(values) + self.seed)
        fresh = torch.randn(real.shape, generator=draw).to(real.device)
        found = torch.zeros_like(values)
        found[mask] = (real.mean(0) + real.std(0, correction=0) * fresh).to(values.dtype)
        return found


def _number(values: Tensor) -> int:
    """A seed made from the content."""
    content = values.detach().float().cpu().contiguous().numpy().tobytes()
    return int(sha256(content).hexdigest()[:12], 16)
