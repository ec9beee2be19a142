"""Gates on edges: which senders a receiver reads, learned through frozen models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.projectors import Projector
from unspoken.types import CacheSegment, KVCache, Need, Prompt, Segment, Spec, Text, Vectors
from unspoken.wire import Message

__all__ = ["EdgeGates", "Gated", "check_gateable"]


class EdgeGates(Projector):
    """E gates, of which each receiver has k open: the edges over which it receives.

    CommFormer (Hu et al., ICLR 2024, OpenReview Qox9rO0kN0): Gumbel top-k with straight-through
    gradients, over the edges that lead to one receiver:

        y = softmax((logits + Gumbel noise) / temperature),  gate = top_k(y) + y - stop(y)

    In use the k largest logits are open, without noise, and of equal ones those listed first.
    Different from the paper, the edges are those of a pipeline instead of all n x n, k is given
    instead of a share of n, and an open edge has no embedding, since the models are frozen.

    receivers: for each edge the number of the agent that it leads to. senders: k. seed: of the
    noise, which is the same for the same step.

    >>> gates = EdgeGates(receivers=[0, 0, 0, 1], senders=1)
    >>> gates.chosen()
    (0, 3)
    >>> gates.draw(step=5).sum().item()
    2.0
    """

    def __init__(
        self,
        *,
        receivers: Sequence[int],
        senders: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if senders < 1 or temperature <= 0:
            raise ValueError(
                f"a receiver reads at least 1 sender, at a temperature above 0; got "
                f"senders={senders}, temperature={temperature}"
            )
        self.receivers, self.senders = tuple(receivers), senders
        self.temperature, self.seed = temperature, seed
        self.logits = nn.Parameter(torch.zeros(len(receivers)))

    def draw(self, step: int) -> Tensor:
        """The gates (E,) of a step of training: 0 or 1 exactly, with a gradient to the logits."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        noise = -torch.empty(len(self.receivers)).exponential_(generator=draw).log()
        scores = self._by_receiver(self.logits + noise.to(self.logits))
        shares = (scores / self.temperature).softmax(1)
        # In this order: the difference is exactly zero, so that the sum is exactly the gate.
        return (self._top(scores) + (shares - shares.detach())).sum(0)

    def chosen(self) -> tuple[int, ...]:
        """The numbers of the edges that are open in use."""
        open_ = self._top(self._by_receiver(self.logits.detach())).sum(0)
        return tuple(cast(list[int], open_.nonzero().flatten().tolist()))

    def _by_receiver(self, scores: Tensor) -> Tensor:
        """Scores (E,) as a row for each receiver (R, E), -inf where an edge leads elsewhere."""
        receivers = torch.tensor(self.receivers, device=scores.device)
        known = cast(Tensor, receivers.unique())
        mine = receivers == known[:, None]
        return scores.masked_fill(~mine, float("-inf"))

    def _top(self, scores: Tensor) -> Tensor:
        """1 for the k largest of each row (R, E), 0 for the others."""
        order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, : self.senders]
        return torch.zeros_like(scores).scatter(1, order, 1.0).masked_fill(scores.isinf(), 0.0)


class Gated(Channel):
    """Another channel whose message goes through an open gate, in training.

    A closed edge is not in the pipeline at all, in training and in use, so it is bit for bit no
    edge. In use an open edge is the channel itself, bit for bit its message. Only training uses
    this class. There the receiver reads

        z' = z + (gate - 1 - blur) (z - c),  gate = 1

    z: a segment that the channel puts into the receiver's prompt: vectors (B, S, W), or the values
    (B, H, S, D) of a cache. c: at each position, counted from the end, the mean over the B rows,
    what all B messages have in common. Without blur z' is z, bit for bit.

    The slope that reaches the gate is that of the loss along the line from c to z. At z itself it
    says little: a receiver that has understood is sure, and a little more of the message changes
    nothing. So each step draws a blur from 0 to 1, the same for all open gates. The mean slope over
    the line is the loss of z less that of c (integrated gradients, arXiv 1703.01365), and with
    several gates open each gets its Aumann-Shapley share of that. Scaling z instead would ask about
    the length of vectors, which a model that begins with a norm hardly notices.

    So a gate learns from content, and presence teaches nothing: the same message for everybody has
    a slope of zero. Limits: The training loss is that of blurred messages, and only validation is
    exact. Keys of a cache are not changed, so where the receiver attends is not credited. A batch
    of one row teaches nothing. A closed edge has no slope, and is opened by the noise. Words have
    no gradient.

    gate: a scalar, 1 in value. Raises `IncompatibleModels` for channels that send words, that fuse,
    or whose message goes in front of the whole prompt.
    """

    name: ClassVar[str] = "gated"

    def __init__(self, channel: Channel, gate: Tensor, blur: float = 0.0) -> None:
        check_gateable(channel)
        self.channel, self.gate, self.blur = channel, gate, blur

    @property
    def needs(self) -> frozenset[Need]:
        return self.channel.needs

    def send(self, state: SenderState) -> Message:
        return self.channel.send(state)

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        written = self.channel.write(message, prompt)
        known = {id(segment) for segment in prompt.segments}
        return replace(
            written,
            segments=tuple(
                one if id(one) in known else self._through(one) for one in written.segments
            ),
        )

    def _through(self, segment: Segment) -> Segment:
        off = self.gate - 1 - self.blur
        match segment:
            case Text() | Vectors(shared=True):  # all rows are the same
                return segment
            case Vectors(values, mask):
                return Vectors(values + off * _own(values, mask[..., None]), mask)
            case CacheSegment(cache, mask):
                real = mask[:, None, :, None]
                kv = tuple((k, v + off * _own(v, real)) for k, v in cache.kv())
                return replace(segment, cache=KVCache(kv))

    def accept(self, message: Message, receiver: Spec) -> None:
        self.channel.accept(message, receiver)

    def check(self, sender: Spec, receiver: Spec) -> None:
        self.channel.check(sender, receiver)


def check_gateable(channel: Channel) -> None:
    """Raise `IncompatibleModels` for a channel through which no gate can be learned."""
    words, fuses = channel.carries == (Text,), type(channel).fuse is not Channel.fuse
    if words or fuses or channel.in_front:
        raise IncompatibleModels(
            f"channel {channel.name!r} takes no gate: one is learned on vectors or a cache "
            "in the slot of the receiver's prompt. Leave this edge as it is, or use a "
            "channel such as 'embedding', 'memory' or 'layers'"
        )


def _own(values: Tensor, real: Tensor) -> Tensor:
    """What each row has at a position beyond the mean over the rows, 0 where nothing is real."""
    count = real.sum(0).clamp(min=1)
    common = (values * real).sum(0) / count
    return (values - common) * real
