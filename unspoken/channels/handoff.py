"""Hand-over of a KV cache between agents that share their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from unspoken.channels.base import Channel, lead_id
from unspoken.errors import IncompatibleModels
from unspoken.types import MEMORY, Memory, Need, Prompt, Spec, Thought
from unspoken.wire import Message

__all__ = ["Handoff"]


class Handoff(Channel):
    """The sender's KV cache becomes the receiver's memory: L x (B, H, S, D), exact and untrained.

    Whatever the sender has read stands in front of the receiver's prompt, as if the receiver had
    read it there: the same tokens follow as after the text. A lead that both begin with is not
    read twice. Sliding-window layers keep all positions; the model masks what is out of sight.
    """

    name: ClassVar[str] = "handoff"
    in_front: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({MEMORY})

    def send(self, thought: Thought) -> Message:
        assert thought.memory is not None, "the sender computes what `needs` asks for"
        memory = replace(thought.memory, spelling=None)  # the cache is enough
        return self._message(thought, memory, receiver=thought.spec.weights)

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        assert isinstance(message.payload, Memory)
        if prompt.lead and message.header.lead == lead_id(prompt.lead):
            prompt = Prompt(prompt.segments[1:], prompt.slot - 1)
        return prompt.front(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        for what in ("weights", "tokenizer"):
            if getattr(sender, what) != getattr(receiver, what):
                raise IncompatibleModels(
                    f"handoff needs the same {what} on both sides, but sender {sender.name!r} has "
                    f"{getattr(sender, what)} and receiver {receiver.name!r} has "
                    f"{getattr(receiver, what)}; use one backbone for both, or the channel "
                    "'embedding' or 'text'"
                )
