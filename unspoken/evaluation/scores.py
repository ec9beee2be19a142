"""Usable information: how much the right message tells a receiver about its answer.

Receiver-side V-information (Xu et al., arXiv 2002.10689) in the contrastive form of arXiv
2512.21720, with the receiver itself as the critic: the same for words, vectors and caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from math import log, log2
from time import perf_counter
from typing import cast

import torch
from torch import Tensor

from unspoken.agents import Agent, Incoming
from unspoken.evaluation.sharing import PrefixSharing
from unspoken.evaluation.timing import Timed
from unspoken.pipeline import Pipeline, Query, fields_of
from unspoken.protocols import Model
from unspoken.terminal import track
from unspoken.types import Segment, Text, size_of

__all__ = ["Scores", "contrast", "measure", "positions"]


@dataclass(frozen=True)
class Scores:
    """A receiver's scores of N messages and N questions, in nats. Derived values are in bits.

    table: (N, N), log p(answer_i | message_l, question_i) at [l][i]. alone: (N,), the same without
    a message. partners: for each item another, whose message is the wrong one. positions, wire:
    positions and bytes of each message. Words count in the receiver's tokens. seconds: of it all,
    measured as `timed` says, if that was in an earlier run.

    >>> scores = Scores(((-1.0, -9.0), (-9.0, -1.0)), (-4.0, -4.0), (1, 0), (5, 5), (64, 64), 0.1)
    >>> round(sum(scores.bits) / 2, 3), scores.ceiling, scores.identified
    (1.0, 1.0, (1.0, 1.0))
    """

    table: tuple[tuple[float, ...], ...]
    alone: tuple[float, ...]
    partners: tuple[int, ...]
    positions: tuple[int, ...]
    wire: tuple[int, ...]
    seconds: float
    timed: Timed | None = field(default=None, compare=False)

    @property
    def ceiling(self) -> float:
        """log2 N: the bits of a message that tells N items apart. No message has more."""
        return log2(len(self.alone))

    @cached_property
    def bits(self) -> tuple[float, ...]:
        """log p(y_i | m_i, q_i) - log 1/N sum_l p(y_i | m_l, q_i). Negative: it misleads."""
        return contrast(torch.tensor(self.table, dtype=torch.float64), range(len(self.alone)))

    @cached_property
    def deranged(self) -> tuple[float, ...]:
        """The same with another item's message (a mismatched message)."""
        return contrast(torch.tensor(self.table, dtype=torch.float64), self.partners)

    @property
    def pvi(self) -> tuple[float, ...]:
        """log p(y_i | m_i, q_i) - log p(y_i | q_i): pointwise V-information (arXiv 2110.08420)."""
        return tuple((self.table[n][n] - alone) / log(2) for n, alone in enumerate(self.alone))

    @cached_property
    def identified(self) -> tuple[float, ...]:
        """Whether the right message makes the answer likeliest: 1, 0, or a share among equals."""
        table = torch.tensor(self.table, dtype=torch.float64)
        best = table == table.max(0).values
        return _floats(best.diagonal() / best.sum(0))


def contrast(table: Tensor, right: Sequence[int]) -> tuple[float, ...]:
    """Bits of message `right[i]` about item i among all N: (N, N) nats to N terms, <= log2 N.

    Not clipped at zero, in contrast to arXiv 2512.21720: a message that misleads has negative bits,
    and clipping would hide that. The mean over all shifts of `right` is never positive.
    """
    columns = torch.arange(table.shape[1])
    against = table - table[torch.as_tensor(list(right)), columns]
    most = against.max(0).values  # exact for equal rows: log(1) is 0
    mean = (against - most).exp().mean(0).log() + most
    return _floats(-mean / log(2))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(cast(list[float], values.tolist()))


def measure(
    pipeline: Pipeline,
    queries: Sequence[Query],
    answers: Sequence[str],
    partners: Sequence[int],
    *,
    batch_size: int = 16,
    rows: int = 32,
    progress: str = "",
) -> Scores:
    """Ask the answering agent every question after every message.

    answers: the words that the agent would write, with the space before them. The other agents
    work on each item once, in batches of `batch_size`. Then `rows` questions at a time are read
    after one message.
    """
    start = perf_counter()
    messages = _messages(pipeline, queries, batch_size)
    questions = _Questions(pipeline.answerer, queries, answers, rows)
    first: dict[tuple[bytes, ...], int] = {}
    same = [first.setdefault(_bytes(found), n) for n, found in enumerate(messages)]
    table = torch.zeros(len(messages), len(queries), dtype=torch.float64)
    asked = list(product(questions.batches, first.values()))
    with torch.no_grad():
        alone = torch.zeros(len(queries), dtype=torch.float64)
        for batch in questions.batches:
            alone[batch] = questions.score(batch)
        for batch, number in track(asked, progress, disable=not progress):
            table[number, batch] = questions.score(batch, messages[number])
    return Scores(
        table=tuple(_floats(row) for row in table[same]),
        alone=_floats(alone),
        partners=tuple(partners),
        positions=tuple(_positions(found, questions.model) for found in messages),
        wire=tuple(sum(one.message.nbytes for one in found) for found in messages),
        seconds=perf_counter() - start,
    )


class _Questions:
    """The answering agent and what it is asked, in batches of questions of similar length."""

    def __init__(
        self, agent: Agent, queries: Sequence[Query], answers: Sequence[str], rows: int
    ) -> None:
        self.model, self.answers = agent.model, answers
        self.agent = replace(agent, model=PrefixSharing(agent.model))
        self.fields = fields_of(queries)
        read = [self.fields[name] for name in agent.role.fields]
        length = [sum(map(size_of, row)) for row in zip(*read, answers, strict=True)]
        order = sorted(range(len(answers)), key=length.__getitem__)
        self.batches = [order[n : n + rows] for n in range(0, len(order), rows)]

    def score(self, batch: Sequence[int], messages: Sequence[Incoming] = ()) -> Tensor:
        """log p of the answers (B,) in nats, after messages of one row."""
        fields = {name: tuple(texts[n] for n in batch) for name, texts in self.fields.items()}
        repeated = [Incoming(one.channel, one.message.repeat(len(batch))) for one in messages]
        context = self.agent.read(fields, repeated).context
        return -self.model.score(context, [self.answers[n] for n in batch]).double().cpu()


def _messages(
    pipeline: Pipeline, queries: Sequence[Query], batch_size: int
) -> list[tuple[Incoming, ...]]:
    """For each item the messages that reach the answering agent, one row each."""
    messages: list[tuple[Incoming, ...]] = []
    for n in range(0, len(queries), batch_size):
        batch = queries[n : n + batch_size]
        found = pipeline.incoming(batch)
        messages += [
            tuple(Incoming(one.channel, one.message.row(row)) for one in found)
            for row in range(len(batch))
        ]
    return messages


def _bytes(messages: Sequence[Incoming]) -> tuple[bytes, ...]:
    """What messages hold, without the items that they are about."""
    return tuple(sha256(one.message.about(()).to_bytes()).digest() for one in messages)


def _positions(messages: Sequence[Incoming], receiver: Model) -> int:
    """How many positions the messages of one row have."""
    return sum(positions(one.message.payload, receiver)[0] for one in messages)


def positions(payload: Segment, receiver: Model) -> list[int]:
    """How many positions each row of a payload has. Words count in the receiver's tokens."""
    if isinstance(payload, Text):
        return [len(receiver.tokens(words.strip())) for words in payload.words]
    return cast(list[int], payload.mask.sum(1).tolist())
