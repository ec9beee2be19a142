"""Vectors in the receiver's embedding space, from a projector, trained or in closed form.

Planner and Executor, arXiv 2510.15244: h_proj = f(h_sender), -log p_receiver(answer | h_proj, q).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from unspoken.channels.base import Channel, check_identities, check_widths, remedy
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.projectors import StateProjector, load_projector
from unspoken.types import Need, Prompt, Spec, Vectors
from unspoken.wire import Message

__all__ = ["Embedding"]


class Embedding(Channel):
    """Sender states (B, S, W of the sender), projected to (B, S', W of the receiver).

    projector: an `EmbeddingProjector`, a `LinearMap` or another `StateProjector`, or the folder of
    one.
    """

    name: ClassVar[str] = "embedding"
    carries = (Vectors,)

    def __init__(self, projector: StateProjector | str) -> None:
        if isinstance(projector, str):
            projector = _of_states(projector)
        self.projector = projector

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset(Need("hidden", layer) for layer in self.projector.layers)

    def send(self, state: SenderState) -> Message:
        states = [state.hidden[layer] for layer in self.projector.layers]
        values = torch.stack([layer.values for layer in states], 2)
        vectors = self.projector(Vectors(values, states[0].mask))
        target = self.projector.target_weights, self.projector.target_tokenizer
        return self._message(state, vectors, receiver=target[0], tokenizer=target[1])

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        assert isinstance(message.payload, Vectors)
        front = self.projector.front_vectors(message.batch)
        if front is not None and front.mask.shape[1]:
            self._check_made(message, [front.values])
            filled = message.payload.mask.any(1)
            prompt = prompt.insert(Vectors(front.values, front.mask & filled[:, None]))
        return prompt.insert(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        projector, fix = self.projector, remedy(self.projector, sender, receiver)
        check_widths(projector, sender, receiver, fix)
        check_identities(projector, sender, receiver, fix)
        highest = max(n if n >= 0 else -n - 1 for n in projector.layers)  # -1 is the last one
        if highest > sender.layers:
            raise IncompatibleModels(
                f"the projector reads layers {list(projector.layers)}, but sender {sender.name!r} "
                f"has {sender.layers}; {fix}"
            )


def _of_states(folder: str) -> StateProjector:
    projector = load_projector(folder)
    if not isinstance(projector, StateProjector):
        raise IncompatibleModels(
            f"channel 'embedding' takes a projector of states, but {folder} holds a "
            f"{type(projector).__name__}; use the channel of that kind"
        )
    return projector
