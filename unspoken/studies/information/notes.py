"""How many bits a writer's words carry of their source, by its own probabilities. For text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2

import torch
from torch import Tensor

from unspoken.agents import Agent
from unspoken.evaluation.scores import contrast
from unspoken.evaluation.sharing import PrefixSharing
from unspoken.pipeline import Query, fields_of
from unspoken.terminal import track

__all__ = ["Written", "estimate"]


@dataclass(frozen=True)
class Written:
    """Bits that sampled notes carry of the N sources they were written about.

    bits: for each item the mean over its samples; tokens: of a note, mean. ceiling: log2 N.
    """

    bits: tuple[float, ...]
    tokens: float
    samples: int

    @property
    def ceiling(self) -> float:
        return log2(len(self.bits))


@torch.no_grad()
def estimate(
    writer: Agent,
    queries: Sequence[Query],
    *,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: str = "",
) -> Written:
    """I(X; Z) of arXiv 2512.21720, section 3: notes z_ij ~ p(z | x_i), at temperature 1.

        1/(N M) sum_ij [log p(z_ij | x_i) - log 1/N sum_l p(z_ij | x_l)]

    The probabilities are the writer's own. The paper scores small writers by a larger model,
    because they find nonsense likely, and clips at zero. Nothing is clipped here. The tokens
    that were drawn are scored, with the end of the note if it ended within `max_tokens`.
    """
    agent = replace(writer, model=PrefixSharing(writer.model))
    size = len(queries)
    batches = [range(n, min(n + batch_size, size)) for n in range(0, size, batch_size)]
    rounds, tokens = list[tuple[float, ...]](), 0
    for sample in range(samples):
        notes = _notes(agent, queries, batches, seed + sample)
        tokens += sum(map(len, notes))
        sources = track(queries, progress, disable=not progress)
        table = torch.stack([_scores(agent, query, notes, batches) for query in sources])
        rounds.append(contrast(table, range(size)))
    bits = tuple(sum(terms) / samples for terms in zip(*rounds, strict=True))
    return Written(bits, tokens / samples / size, samples)


def _notes(
    agent: Agent, queries: Sequence[Query], batches: Sequence[range], seed: int
) -> list[tuple[int, ...]]:
    """Tokens of a note about each item, drawn at temperature 1."""
    notes: list[tuple[int, ...]] = []
    drawing = replace(agent, settings=replace(agent.settings, temperature=1.0, seed=seed))
    for batch in batches:
        fields = fields_of([queries[n] for n in batch])
        read = drawing.read(fields)
        notes += drawing.model.write(read.context, drawing.settings_for(fields)).ids
    return notes


def _scores(
    agent: Agent, query: Query, notes: Sequence[tuple[int, ...]], batches: Sequence[range]
) -> Tensor:
    """log p of all notes (N,) about one source, in nats."""
    found = torch.zeros(len(notes), dtype=torch.float64)
    for batch in batches:
        read = agent.read(fields_of([query] * len(batch)))
        score = agent.model.score(read.context, [notes[n] for n in batch])
        found[list(batch)] = -score.double().cpu()
    return found
