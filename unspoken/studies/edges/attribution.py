"""Which edges of a pipeline matter: each in turn is left out or carries another item's message."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from unspoken.errors import PipelineError
from unspoken.evaluation.statistics import Difference, Estimate, difference, mean
from unspoken.pipeline import Edge
from unspoken.studies.edges.trials import Cost, Edges, Outcome, Trials

__all__ = [
    "CONTENT",
    "HARM",
    "NOTHING",
    "PRESENCE",
    "REDUNDANT",
    "EdgeWorth",
    "attribute",
    "bits",
]


@dataclass(frozen=True)
class EdgeWorth:
    """What one edge is worth to the answer, over the same items, while all others stay.

    gain: against the pipeline without this edge. content: against the same pipeline in which this
    edge alone carries another item's message. Of each the difference in right answers, with
    McNemar's exact p, and in bits: log2 p of the right answer, bootstrap over items. wire,
    positions: what the edge carries about an item, in bytes and in its receiver's positions.
    """

    number: int
    sender: str
    receiver: str
    channel: str
    without: float
    wrong: float
    gain: Difference
    content: Difference
    gain_bits: Estimate
    content_bits: Estimate
    wire: float
    positions: float

    @classmethod
    def of(
        cls,
        number: int,
        edge: Edge,
        cost: Cost,
        outcomes: tuple[Outcome, Outcome, Outcome],
        seed: int = 0,
    ) -> EdgeWorth:
        """outcomes: over all edges, without this one, and with the wrong message on it."""
        whole, without, wrong = outcomes
        n = len(whole.nats)
        return cls(
            number=number,
            sender=edge.sender,
            receiver=edge.receiver,
            channel=edge.channel.name,
            without=sum(without.correct) / n,
            wrong=sum(wrong.correct) / n,
            gain=difference(whole.correct, without.correct),
            content=difference(whole.correct, wrong.correct),
            gain_bits=mean(bits(whole, without), seed=seed),
            content_bits=mean(bits(whole, wrong), seed=seed),
            wire=cost.wire,
            positions=cost.positions,
        )

    @property
    def name(self) -> str:
        return f"{self.sender} -> {self.receiver}"

    @property
    def per_kib(self) -> float:
        """Bits gained for each KiB on the wire, header included; 0 if nothing travels."""
        return 1024 * self.gain_bits.value / self.wire if self.wire else 0.0

    @property
    def per_position(self) -> float:
        """Bits gained for each position that the receiver has to read."""
        return self.gain_bits.value / self.positions if self.positions else 0.0

    @property
    def verdict(self) -> str:
        """In words, by the 95 % intervals of bits, which see more than right and wrong."""
        if self.gain_bits.high < 0:
            return HARM
        if self.content_bits.low > 0:
            return CONTENT if self.gain_bits.low > 0 else REDUNDANT
        return PRESENCE if self.gain_bits.low > 0 else NOTHING


CONTENT = "content"
REDUNDANT = "content, not needed beside the others"
PRESENCE = "presence only, no content shown"
HARM = "harm"
NOTHING = "no effect shown"


def bits(one: Outcome, other: Outcome) -> list[float]:
    """How much likelier each right answer is in one condition than in the other, in bits."""
    return [(a - b) / log(2) for a, b in zip(one.nats, other.nats, strict=True)]


def attribute(trials: Trials, *, seed: int = 0) -> tuple[EdgeWorth, ...]:
    """Leave out each edge, and let each carry the wrong message, while all others stay.

    If two edges say the same, each looks worthless here although both together are not. Their
    content shows with the wrong message. `prune` removes edges one after the other.
    Raises `PipelineError` without an edge.
    """
    edges, every = trials.pipeline.edges, trials.every
    if not edges:
        raise PipelineError("the pipeline has no edges to attribute anything to; join its agents")
    whole, costs = trials.ask(every), trials.costs()
    found: list[EdgeWorth] = []
    for n, edge in enumerate(edges):
        one: Edges = frozenset({n})
        outcomes = whole, trials.ask(every - one), trials.ask(every, one)
        found.append(EdgeWorth.of(n, edge, costs[n], outcomes, seed))
    return tuple(found)
