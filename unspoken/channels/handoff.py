"""Hand-over of a KV cache between agents that share their weights."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from unspoken.channels.base import Channel, opening_id
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.protocols import Model, movable
from unspoken.types import CACHE, CacheSegment, KVCache, Need, Prompt, Spec
from unspoken.wire import Message

__all__ = ["MOVED", "Handoff", "accept_same", "after_opening", "check_same"]


class Handoff(Channel):
    """The sender's KV cache becomes the receiver's memory: L x (B, H, S, D), exact and untrained.

    Whatever the sender has read stands in front of the receiver's prompt, as if the receiver had
    read it there: the same tokens follow as after the text. A lead that both begin with is not
    read twice. Sliding-window layers keep all positions; the model masks what is out of sight.

    opening: False hands over only what comes after the sender's shared opening, moved to position
    0: it has seen the opening, but the receiver does not. That is the cache enrichment by which C2C
    (arXiv 2510.03215) shows what a cache can carry with no training; it needs rotary embeddings.
    """

    name: ClassVar[str] = "handoff"
    in_front: ClassVar[bool] = True
    own_cache: ClassVar[bool] = True
    carries = (CacheSegment,)

    def __init__(self, *, opening: bool = True) -> None:
        self.opening = opening

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({CACHE})

    def send(self, state: SenderState) -> Message:
        cached = self._memory(state)
        assert cached is not None, "the sender computes what `needs` asks for"
        if state.opening and not self.opening:
            cached, state = after_opening(cached, state), replace(state, opening="")
        cached = replace(cached, spelling=None)  # the cache is enough
        spec = state.spec
        return self._message(state, cached, receiver=spec.weights, tokenizer=spec.tokenizer)

    def accept(self, message: Message, receiver: Spec) -> None:
        super().accept(message, receiver)
        accept_same(message, receiver)

    def _memory(self, state: SenderState) -> CacheSegment | None:
        """What is handed over."""
        return state.cached

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        assert isinstance(message.payload, CacheSegment)
        if prompt.opening and message.header.lead == opening_id(prompt.opening):
            prompt = replace(prompt, segments=prompt.segments[1:], slot=prompt.slot - 1)
        return prompt.front(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        check_same(self.name, sender, receiver)

    def ask(self, sender: Model, receiver: Model) -> None:
        if not self.opening:
            movable(sender, MOVED)


MOVED = "what stands behind the lead is moved to the beginning"
_SAME = ("weights", "tokenizer", "kinds", "window")


def accept_same(message: Message, receiver: Spec) -> None:
    """Raise `IncompatibleModels` if another model than the receiver's made the message."""
    header = message.header
    for what in _SAME:
        said, own = getattr(header, what), getattr(receiver, what)
        if said not in ("", (), None) and said != own:
            raise IncompatibleModels(
                f"the message from {header.sender!r} was made with {what} {said}, but receiver "
                f"{receiver.name!r} has {own}; use one model for both, configured alike"
            )


def check_same(channel: str, sender: Spec, receiver: Spec) -> None:
    """Raise `IncompatibleModels` unless both sides have the same weights, tokenizer, windows."""
    for what in _SAME:
        if getattr(sender, what) != getattr(receiver, what):
            raise IncompatibleModels(
                f"{channel} needs the same {what} on both sides, but sender {sender.name!r} has "
                f"{getattr(sender, what)} and receiver {receiver.name!r} has "
                f"{getattr(receiver, what)}; use one backbone for both, or the channel "
                "'embedding' or 'text'"
            )


def after_opening(cached: CacheSegment, state: SenderState) -> CacheSegment:
    """The positions behind the last one that spells the lead, as if the first were position 0.

    `<bos>` stays behind with the lead, or without one.
    """
    spelling = cached.spelling
    assert spelling is not None, "a memory that was read is spelled"
    in_opening = (spelling.ends >= 0) & (spelling.ends <= len(state.opening))
    begins = all(words.startswith(state.opening) for words in spelling.words)
    found = (in_opening & (spelling.ends > 0)).any(1)
    if state.opening and not (begins and bool(found.all())):
        raise IncompatibleModels(
            f"a hand-over cannot tell where the opening of sender {state.agent!r} ends: another "
            f"agent handed it over, or the tokenizer of {state.spec.name!r} has no offsets; use "
            "Handoff(opening=True)"
        )
    slots = torch.arange(cached.mask.shape[1], device=cached.mask.device)
    last = torch.where(in_opening, slots, -1).amax(1, keepdim=True)
    behind = cached.mask & (slots > last)
    begin = torch.where(behind, cached.positions, cached.length[:, None]).amin(1)
    moved = movable(state.model, MOVED).shift(cached.kv, -begin)
    positions = (cached.positions - begin[:, None]).clamp(min=0)
    return CacheSegment(KVCache(moved), behind, positions).rows(slice(None))
