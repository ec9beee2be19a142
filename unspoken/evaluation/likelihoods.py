"""The log probabilities of given answers, from which decisions and drift are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from unspoken.evaluation.scores import positions
from unspoken.pipeline import Pipeline, Query, fields_of
from unspoken.terminal import track

__all__ = ["Likelihoods", "likelihoods"]


@dataclass(frozen=True)
class Likelihoods:
    """N items and their answers: log p in nats, one row an item. positions: a message's mean."""

    nats: tuple[tuple[float, ...], ...]
    positions: float

    @property
    def signs(self) -> tuple[int, ...]:
        """1 where the first of two answers is likelier than the second, else -1."""
        return tuple(1 if first > second else -1 for first, second in self.nats)


@torch.no_grad()
def likelihoods(
    pipeline: Pipeline,
    queries: Sequence[Query],
    answers: Sequence[Sequence[str]],
    *,
    batch_size: int = 16,
    progress: str = "",
) -> Likelihoods:
    """The log probability that the answering agent gives each answer, after its messages.

    answers: equally many for each item, as the agent would write them, with the space before them.
    The prompt is read once for all of them. Items of similar length are read together.
    """
    agent = pipeline.answerer
    order = sorted(range(len(queries)), key=lambda n: len(str(queries[n])))
    batches = [order[n : n + batch_size] for n in range(0, len(order), batch_size)]
    found: dict[int, list[float]] = {}
    places = 0
    for batch in track(batches, progress, disable=not progress):
        asked = [queries[n] for n in batch]
        incoming = pipeline.incoming(asked)
        places += sum(sum(positions(one.message.payload, agent.model)) for one in incoming)
        context = agent.read(fields_of(asked), incoming).context
        columns = [
            -agent.model.score(context, list(column)).double().cpu()
            for column in zip(*(answers[n] for n in batch), strict=True)
        ]
        rows = cast(list[list[float]], torch.stack(columns, 1).tolist())
        found.update(zip(batch, rows, strict=True))
    nats = tuple(tuple(found[n]) for n in range(len(queries)))
    return Likelihoods(nats, places / len(queries))
