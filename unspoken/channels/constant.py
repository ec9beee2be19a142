"""The control without a sender: the same free vectors for every item."""

from __future__ import annotations

from typing import ClassVar

from unspoken.channels.base import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.projectors import FreeVectors
from unspoken.types import Need, Prompt, Spec, Vectors
from unspoken.wire import Message

__all__ = ["Constant"]


class Constant(Channel):
    """n trained vectors (n, W) in the place of a message. What they gain is no communication.

    Prefix tuning (arXiv 2101.00190) at the embedding layer, in the slot of the message.
    vectors: a `FreeVectors` or the folder of one.
    """

    name: ClassVar[str] = "constant"
    carries = (Vectors,)

    def __init__(self, vectors: FreeVectors | str) -> None:
        self.vectors = FreeVectors.from_pretrained(vectors) if isinstance(vectors, str) else vectors

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def send(self, state: SenderState) -> Message:
        payload = self.vectors(len(state.given))
        return self._message(state, payload, receiver=self.vectors.target_weights)

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        return prompt.insert(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        if receiver.width != self.vectors.width:
            raise IncompatibleModels(
                f"the free vectors are {self.vectors.width} wide, but receiver "
                f"{receiver.name!r} embeds {receiver.width}; train new ones for it"
            )
        made_for = self.vectors.target_weights
        if made_for and not receiver.is_known_as(made_for):
            raise IncompatibleModels(
                f"the free vectors were trained with weights {made_for}, but "
                f"receiver {receiver.name!r} has {receiver.weights}; train new ones for it"
            )
