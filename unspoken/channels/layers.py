"""The layers of a KV cache to which a receiver attends most. The others stay with the sender.

KVComm, arXiv 2510.03346: S_l = alpha * A_l + (1 - alpha) * exp(-(l - mu)^2 / (2 sigma^2)), and the
layers with the highest scores are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import ClassVar, cast

import torch
from torch import Tensor

from unspoken.channels.base import Channel
from unspoken.channels.handoff import MOVED, accept_same, after_opening, check_same
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels, require
from unspoken.protocols import Model, fillable, movable
from unspoken.types import CACHE, CacheSegment, KVCache, Need, Prompt, Spec, is_above_0
from unspoken.wire import Message

__all__ = ["SelectiveLayers", "ranked"]


class SelectiveLayers(Channel):
    """Some layers of what the sender read after its opening: L x (B, H, S, D), or H = 0.

    Both sides have the same weights. In a layer that is not sent, the receiver attends to its own
    positions alone. Its positions count the message's in all layers. With equal openings and
    all layers sent, it is as if the receiver had read the sender's words itself.

    ratio: the part of the layers that is sent. attention: A_l for each of the L layers, what
    `calibrated` measures. Without it the prior alone decides. alpha: the weight of attention
    against the prior; mu: the prior's centre, in parts of the depth; sigma: its width, in layers.

    The message is in its slot, after the receiver's own first tokens. The paper puts it before
    everything. Its code then sends the first token of every layer and the whole lowest layer, so
    that no layer is without the token that takes in idle attention. Here that is the receiver's.

    >>> SelectiveLayers(ratio=0.5, sigma=1.0).chosen(6)
    (1, 2, 3)
    """

    name: ClassVar[str] = "layers"
    carries = (CacheSegment,)
    own_cache: ClassVar[bool] = True
    by_length: ClassVar[bool] = True

    def __init__(
        self,
        *,
        ratio: float = 0.5,
        attention: Sequence[float] | None = None,
        alpha: float = 0.8,
        mu: float = 0.5,
        sigma: float = 10.0,
    ) -> None:
        require(is_above_0(ratio) and ratio <= 1, "ratio", ratio, "above 0 and at most 1")
        require(alpha == 0 or (is_above_0(alpha) and alpha <= 1), "alpha", alpha, "from 0 to 1")
        require(is_above_0(sigma), "sigma", sigma, "above 0")
        self.ratio, self.alpha, self.mu, self.sigma = ratio, alpha, mu, sigma
        self.attention = None if attention is None else tuple(attention)

    def calibrated(self, receiver: Model, samples: Sequence[tuple[str, str]]) -> SelectiveLayers:
        """The same channel with attention measured: what is asked to what comes first."""
        model = fillable(receiver, "attention is measured over")
        shares = torch.stack([model.regard(first, asked) for first, asked in samples])
        return SelectiveLayers(
            ratio=self.ratio,
            attention=cast(list[float], shares.mean(0).tolist()),
            alpha=self.alpha,
            mu=self.mu,
            sigma=self.sigma,
        )

    def chosen(self, layers: int) -> tuple[int, ...]:
        """Which of the L layers are sent, the lowest first."""
        order = ranked(layers, self.attention, self.alpha, self.mu, self.sigma)
        return tuple(sorted(order[: max(1, ceil(self.ratio * layers))]))

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({CACHE})

    def send(self, state: SenderState) -> Message:
        assert state.cached is not None, "the sender computes what `needs` asks for"
        cached = after_opening(state.cached, state)
        sent = self.chosen(len(cached.kv))
        kv = tuple(
            (keys, values) if n in sent else (keys[:, :0], values[:, :0])
            for n, (keys, values) in enumerate(cached.kv)
        )
        cached = replace(cached, cache=KVCache(kv), spelling=None)
        spec = state.spec
        return self._message(state, cached, receiver=spec.weights, tokenizer=spec.tokenizer)

    def accept(self, message: Message, receiver: Spec) -> None:
        super().accept(message, receiver)
        accept_same(message, receiver)

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        assert isinstance(message.payload, CacheSegment)
        return prompt.insert(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        check_same(self.name, sender, receiver)

    def ask(self, sender: Model, receiver: Model) -> None:
        movable(sender, MOVED)
        movable(receiver, "a cache in the slot is moved after what comes before it")
        layers = receiver.spec.layers
        if len(self.chosen(layers)) < layers and not fillable(receiver, "layers see").narrows:
            raise IncompatibleModels(
                f"channel 'layers' leaves out layers, but those of {receiver.spec.name!r} cannot "
                "be kept from seeing a cache. Use ratio=1, or load the model with "
                "attn_implementation='sdpa'"
            )


def ranked(
    layers: int, attention: Sequence[float] | None, alpha: float, mu: float, sigma: float
) -> list[int]:
    """All L layers, the highest score first. Of equal scores the lower layer comes first.

    Attention and prior are both stretched to 0..1, as the authors' code does.
    """
    depth = torch.arange(layers, dtype=torch.float64)
    prior = torch.exp(-0.5 * ((depth - mu * (layers - 1)) / sigma).square())
    score = _stretched(prior)
    if attention is not None:
        if len(attention) != layers:
            raise ValueError(
                f"the attention of {len(attention)} layers is given, but the model has {layers}"
            )
        paid = torch.tensor(attention, dtype=torch.float64)
        score = alpha * _stretched(paid) + (1 - alpha) * score
    return cast(list[int], score.argsort(descending=True, stable=True).tolist())


def _stretched(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-9)
