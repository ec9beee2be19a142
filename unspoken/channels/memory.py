"""A projected cache: the receiver continues from what another model has read.

Cache-to-cache communication (arXiv 2510.03215) merges the caches of two models that have read the
same text. Here the receiver has not read it: its prompt holds the sender's cache, projected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, get_args

from unspoken.channels.base import Channel, check_identities, remedy, spelled_opening
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, require
from unspoken.projectors.alignment import ends_in
from unspoken.projectors.memory import MemoryProjector
from unspoken.protocols import Model, movable
from unspoken.types import (
    CACHE,
    CacheSegment,
    Need,
    Prompt,
    Segment,
    Spec,
    Vectors,
    left_pad,
)
from unspoken.wire import Message
from unspoken.wire.payload import numbers_of

__all__ = ["DecodedBy", "ProjectedMemory"]

DecodedBy = Literal["receiver", "sender"]
"""Which side makes a cache of the codes of a memory."""


class ProjectedMemory(Channel):
    """Codes (B, S', width) of a cache become a `CacheSegment` of the receiver.

    S' is the number of the receiver's tokens in what the sender read after its opening.
    projector: a `MemoryProjector` or the folder of one.

    decoded_by: who makes the cache of the codes. By the `receiver` little travels, `width` numbers
    for each token, and the receiver spends the time. By the `sender` the cache itself travels, Lt x
    (B, Ht, S', Dt), and the receiver puts it in its place. The answers are the same. A receiver
    takes either, whatever its own setting says.
    """

    name: ClassVar[str] = "memory"
    carries = (Vectors, CacheSegment)

    @property
    def reads(self) -> tuple[type[Segment], ...]:
        return (CacheSegment,)

    def __init__(
        self, projector: MemoryProjector | str, *, decoded_by: DecodedBy = "receiver"
    ) -> None:
        sides = get_args(DecodedBy)
        require(decoded_by in sides, "decoded_by", decoded_by, " or ".join(map(repr, sides)))
        if isinstance(projector, str):
            projector = MemoryProjector.from_pretrained(projector).eval()
        self.projector, self.decoded_by = projector, decoded_by

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({CACHE})

    def send(self, state: SenderState) -> Message:
        cached = state.cached
        assert cached is not None
        assert cached.spelling is not None
        assert self.projector.tokenizer is not None, "`check` refuses a projector without one"
        opening = spelled_opening(state)
        found = [
            ends_in(words, ends, opening, self.projector.tokenizer)
            for words, ends in zip(cached.spelling.words, cached.spelling.ends.cpu(), strict=True)
        ]
        (places, mask), (rest, _), (ids, _) = (
            left_pad(list(rows)) for rows in zip(*found, strict=True)
        )
        device = cached.mask.device
        code = self.projector.encode(
            cached, places.to(device), rest.to(device), ids.to(device), mask.to(device)
        )
        target = self.projector.target_weights, self.projector.target_tokenizer
        sent = self.projector.decode(code) if self.decoded_by == "sender" else code
        message = self._message(state, sent, receiver=target[0], tokenizer=target[1])
        of_the_receiver = {"kinds": (), "window": None}  # a made cache is none of the sender's
        return replace(message, header=message.header.model_copy(update=of_the_receiver))

    def accept(self, message: Message, receiver: Spec) -> None:
        super().accept(message, receiver)
        if isinstance(message.payload, CacheSegment):
            self._accept_cache(message, message.payload, receiver)
            return
        assert isinstance(message.payload, Vectors)
        width = message.payload.values.shape[2]
        if width != self.projector.width:
            raise IncompatibleModels(
                f"the message from {message.header.sender!r} has codes of width {width}, but the "
                f"projector of receiver {receiver.name!r} decodes {self.projector.width}; use the "
                "projector that the sender has"
            )

    def _accept_cache(self, message: Message, cached: CacheSegment, receiver: Spec) -> None:
        layers, heads, dim = self.projector.target
        found = [(part.shape[1], part.shape[3]) for pair in cached.kv for part in pair]
        if found != [(heads, dim)] * (2 * layers):
            raise IncompatibleModels(
                f"the message from {message.header.sender!r} has a cache of {len(cached.kv)} "
                f"layers with heads and widths {sorted(set(found))}, but receiver "
                f"{receiver.name!r} keeps {layers} layers of {heads} x {dim}; use the projector "
                "that the receiver has"
            )

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        assert isinstance(message.payload, Vectors | CacheSegment)
        if self.projector.prompt.numel():
            front, filled = self.projector.front_vectors(message.batch), message.payload.mask.any(1)
            mask = front.mask & filled[:, None]
            prompt = prompt.insert(Vectors(front.values, mask, shared=bool(filled.all())))
        if isinstance(message.payload, CacheSegment):
            return prompt.insert(message.payload)
        decoded = self.projector.decode(message.payload)
        self._check_made(message, numbers_of(decoded))
        return prompt.insert(decoded)

    def check(self, sender: Spec, receiver: Spec) -> None:
        projector, fix = self.projector, remedy(self.projector, sender, receiver)
        if projector.tokenizer is None:
            raise IncompatibleModels(
                f"the projector has no tokenizer of receiver {receiver.name!r}, so it cannot tell "
                f"where the receiver's tokens end; set its `tokenizer`, or {fix}"
            )
        for side, spec, (layers, heads, dim) in (
            ("sender", sender, projector.source),
            ("receiver", receiver, projector.target),
        ):
            if not spec.even:
                raise IncompatibleModels(
                    f"the layers of {side} {spec.name!r} keep keys and values of unlike shapes, "
                    "and a projector takes equal ones; use another model, or the channel 'text'"
                )
            if (spec.layers, spec.kv_heads, spec.head_dim) != (layers, heads, dim):
                raise IncompatibleModels(
                    f"the projector was made for a {side} with {layers} layers of {heads} x {dim}, "
                    f"but {spec.name!r} has {spec.layers} of {spec.kv_heads} x {spec.head_dim}; "
                    f"{fix}"
                )
        if receiver.width != projector.target_width:
            raise IncompatibleModels(
                f"the projector was made for a receiver that embeds {projector.target_width}, but "
                f"{receiver.name!r} embeds {receiver.width}; {fix}"
            )
        check_identities(projector, sender, receiver, fix)

    def ask(self, sender: Model, receiver: Model) -> None:
        movable(receiver, "a cache in the slot is moved after what comes before it")
