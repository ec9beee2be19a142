"""A sharer's cache, fused into what the receiver has read: Cache-to-Cache, arXiv 2510.03215."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from unspoken.channels.base import Channel, check_identities, remedy, spelled_opening
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, require
from unspoken.projectors.alignment import places
from unspoken.projectors.fuser import Fuser, add_changes
from unspoken.protocols import Model, changeable
from unspoken.types import CACHE, KV, CacheSegment, Context, KVCache, Need, Spec, Spelling
from unspoken.wire import Message

__all__ = ["Fusion", "Order", "fuse_in"]

Order = Literal["sequential", "parallel"]


class Fusion(Channel):
    """The sender's KV cache travels, L x (B, H, S, D), with the words that it spells.

    Each position of the receiver that shares words with the sender is fused with the sender's;
    the other positions and the last token stay bit for bit. What the receiver has not read itself
    does not reach it: let both read the text, or add the channel 'text'. The sender's keys come as
    stored, counted from 0, and the fuser learns to place them.

    fuser: a `Fuser` or the folder of one. order: with several messages, each fuser sees what the
    previous one made (`sequential`), or all see the receiver's own cache and what they change is
    added (`parallel`). opening: whether what the sender read first, its instructions, is fused too.
    loose: whether words that differ between equal ones are fused as well, see `places`. Without
    it, the message of another item would not land where the right one does.
    """

    name: ClassVar[str] = "fusion"
    carries = (CacheSegment,)

    def __init__(
        self,
        fuser: Fuser | str,
        order: Order = "sequential",
        *,
        opening: bool = True,
        loose: bool = False,
    ) -> None:
        require(order in get_args(Order), "order", order, f"one of {', '.join(get_args(Order))}")
        self.fuser = Fuser.from_pretrained(fuser).eval() if isinstance(fuser, str) else fuser
        self.order: Order = order
        self.opening, self.loose = opening, loose

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({CACHE})

    def send(self, state: SenderState) -> Message:
        assert state.cached is not None, "the sender computes what `needs` asks for"
        cached = state.cached if self.opening else _after(spelled_opening(state), state.cached)
        target = self.fuser.target_weights, self.fuser.target_tokenizer
        return self._message(state, cached, receiver=target[0], tokenizer=target[1])

    def accept(self, message: Message, receiver: Spec) -> None:
        super().accept(message, receiver)
        assert isinstance(message.payload, CacheSegment)
        needed = {
            sharer: (self.fuser.source_heads, *[self.fuser.source_dim] * 2)
            for _, sharer in self.fuser.layers
        }
        shapes = [(k.shape[1], k.shape[3], v.shape[3]) for k, v in message.payload.kv]
        if any(layer >= len(shapes) or shapes[layer] != shape for layer, shape in needed.items()):
            raise IncompatibleModels(
                f"the message from {message.header.sender!r} has a cache of layers {set(shapes)}, "
                f"{len(shapes)} of them, but the fuser of receiver {receiver.name!r} takes layers "
                f"{sorted(needed)} of {set(needed.values())}; use the sharer that it was made for"
            )

    def fuse(self, message: Message, context: Context) -> Context:
        cached = message.payload
        assert isinstance(cached, CacheSegment)
        if not cached.mask.shape[1] or not context.kv:
            return context
        if cached.spelling is None:
            raise IncompatibleModels(
                f"fusion aligns positions by their words, but the cache from sender "
                f"{message.header.sender!r} has no words; use the message that fusion sends"
            )
        index = places(context.spelling, cached.spelling, loose=self.loose)[:, :-1]
        plain = context.kv if context.plain is None else context.plain

        kv = fuse_in(self.fuser, context.kv, plain, cached.kv, index, self.order)
        self._check_made(message, [self.fuser.gate, *(one for pair in kv for one in pair)])
        return replace(context, cache=KVCache(kv), plain=plain)

    def check(self, sender: Spec, receiver: Spec) -> None:
        fuser, fix = self.fuser, remedy(self.fuser, sender, receiver)
        highest = max(layer for layer, _ in fuser.layers)
        source = (fuser.top, fuser.source_heads, fuser.source_dim)
        target = (highest, fuser.target_heads, fuser.target_dim)
        _check_sizes("sender", sender, source, fix)
        _check_sizes("receiver", receiver, target, fix)
        check_identities(fuser, sender, receiver, fix)

    def ask(self, sender: Model, receiver: Model) -> None:
        if changeable(receiver, "a fuser changes").border is not None:
            raise IncompatibleModels(
                f"a fuser changes keys and values, but {receiver.spec.name!r} remembers words as "
                "tokens, because its keys turn by the length of all that it reads. Use another "
                "receiver, or the channel 'text'"
            )


def _after(opening: int, cached: CacheSegment) -> CacheSegment:
    """What spells the words after the first `opening` characters. Keys stay as stored."""
    assert cached.spelling is not None
    mask = cached.mask & (cached.spelling.ends > opening)
    keep = mask.any(0)
    ends = cached.spelling.ends.masked_fill(~mask, -1)[:, keep]
    spelling = Spelling(cached.spelling.words, ends, opening)
    cache = cached.cache.rows(slice(None), keep)
    return CacheSegment(cache, mask[:, keep], cached.positions[:, keep], spelling)


def _check_sizes(side: str, spec: Spec, expected: tuple[int, int, int], fix: str) -> None:
    top, heads, dim = expected
    if not spec.even:
        raise IncompatibleModels(
            f"the layers of {side} {spec.name!r} keep keys and values of unlike shapes, and a "
            "fuser takes equal ones; use another model, or the channel 'text'"
        )
    if (spec.kv_heads, spec.head_dim) != (heads, dim):
        raise IncompatibleModels(
            f"the fuser takes {heads} KV heads of width {dim} from its {side}, but {side} "
            f"{spec.name!r} has {spec.kv_heads} of {spec.head_dim}; {fix}"
        )
    if spec.layers <= top:
        raise IncompatibleModels(
            f"the fuser uses {side} layer {top}, counted from 0, but {side} {spec.name!r} has "
            f"{spec.layers} layers; {fix}"
        )


def fuse_in(fuser: Fuser, kv: KV, plain: KV, source: KV, index: Tensor, order: Order) -> KV:
    """`kv` with one more sharer fused in; plain: the cache before any, which may be `kv` itself.

    index: (B, S), the place in `source` that is fused into each position, -1 for none. Columns
    before the first that has a place and after the last one are only copied.
    """
    span = _span(index)
    part, index = _columns(kv, span), index[:, span]
    if order == "sequential" or plain is kv:
        fused = fuser(part, source, index)
    else:
        before = _columns(plain, span)
        fused = add_changes(part, before, fuser(before, source, index))
    return _put(kv, part, fused, span)


def _span(index: Tensor) -> slice:
    """From the first column with a place to the last one. One device sync.

    The first column alone if there is none: in training, gradients reach every parameter.
    """
    chosen = cast(list[bool], (index >= 0).any(0).tolist())
    if not any(chosen):
        return slice(0, 1)
    return slice(chosen.index(True), len(chosen) - chosen[::-1].index(True))


def _columns(kv: KV, span: slice) -> KV:
    return tuple((k[:, :, span], v[:, :, span]) for k, v in kv)


def _put(kv: KV, part: KV, fused: KV, span: slice) -> KV:
    """`kv` with `fused` in the place of `part`, its columns `span`."""

    def put(whole: Tensor, before: Tensor, after: Tensor) -> Tensor:
        if after is before:
            return whole
        if after.shape == whole.shape:
            return after
        return torch.cat((whole[:, :, : span.start], after, whole[:, :, span.stop :]), 2)

    return tuple(
        (put(k, p, f), put(v, q, g)) for (k, v), (p, q), (f, g) in zip(kv, part, fused, strict=True)
    )
