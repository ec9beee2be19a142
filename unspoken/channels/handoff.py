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
    """The receiver goes on from the sender's KV cache: L x (B, H, S, D), exact and untrained.

    All that the sender has read comes before the receiver's prompt, as if the receiver had read
    it there: the same tokens follow as after the text. An opening that both begin with is not
    read twice. Sliding-window layers keep all positions; the model masks what is out of sight.

    opening: False hands over only what comes after the sender's shared opening, moved to position
    0. These positions have attended to the opening, but the receiver does not. This is the cache
    enrichment by which C2C (arXiv 2510.03215) shows what a cache can carry with no training. It
    needs rotary embeddings.
    """

    name: ClassVar[str] = "handoff"
    in_front: ClassVar[bool] = True
    own_cache: ClassVar[bool] = True
    by_length: ClassVar[bool] = True
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


MOVED = "what comes after the opening is moved to the beginning"
_SAME = ("weights", "tokenizer", "kinds", "window")


def accept_same(message: Message, receiver: Spec) -> None:
    """Raise `IncompatibleModels` if another model than the receiver's made the message."""
    header = message.header
    for what in _SAME:
        stated, expected = getattr(header, what), getattr(receiver, what)
        if stated not in ("", (), None) and stated != expected:
            raise IncompatibleModels(
                f"the message from {header.sender!r} was made with {what} {stated}, but receiver "
                f"{receiver.name!r} has {expected}; use one model for both, with the same settings"
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
    """The positions after the last one that spells the opening, moved to begin at position 0.

    `<bos>` is left out too, even without an opening.
    """
    spelling = cached.spelling
    assert spelling is not None, "a cache that was read is spelled"
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
    after = cached.mask & (slots > last)
    begin = torch.where(after, cached.positions, cached.length[:, None]).amin(1)
    moved = movable(state.model, MOVED).shift(cached.kv, -begin)
    positions = (cached.positions - begin[:, None]).clamp(min=0)
    return CacheSegment(KVCache(moved), after, positions).rows(slice(None))
