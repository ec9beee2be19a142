"""A pipeline under a budget: the edge that is worth least for its cost is removed first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from unspoken.evaluation.statistics import Estimate, mean
from unspoken.pipeline import edges_to
from unspoken.studies.edges.attribution import bits
from unspoken.studies.edges.trials import Edges, Trials

__all__ = ["Budget", "Cut", "Pruned", "prune"]

Unit = Literal["edges", "bytes", "positions"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that edges may cost for an item: how many, wire bytes, or positions to read."""

    most: float
    unit: Unit = "edges"


@dataclass(frozen=True)
class Cut:
    """A step: the edges that go, the bits that are lost with them, and the cost that is saved."""

    edges: tuple[int, ...]
    lost: Estimate
    saved: float


@dataclass(frozen=True)
class Pruned:
    """The edges that were kept, by number, and the steps that led there."""

    budget: Budget
    kept: tuple[int, ...]
    cuts: tuple[Cut, ...]


def prune(trials: Trials, budget: Budget, *, seed: int = 0) -> Pruned:
    """Remove edges until the rest fits, each time the one with the least bits for its cost.

    Backward elimination: after each step every remaining edge is judged again. Of two edges
    that say the same, the second is needed once the first is gone. With an edge go those whose
    messages no longer reach the answering agent; their cost is saved too. An edge that does
    harm, by its 95 % interval, is removed even if the rest fits. These items flatter the choice,
    which was made on them: measure it again on other items.
    """
    costs = {
        "edges": [1.0] * len(trials.every),
        "bytes": [cost.wire for cost in trials.costs()],
        "positions": [cost.positions for cost in trials.costs()],
    }[budget.unit]
    kept, cuts = _live(trials, trials.every), list[Cut]()
    while kept:
        spent = sum(costs[n] for n in kept)
        steps = [_step(trials, kept, edge, costs, seed) for edge in sorted(kept)]
        if spent <= budget.most:
            steps = [step for step in steps if step.lost.high < 0]
        if not steps:
            break
        step = min(steps, key=partial(_price, excess=spent - budget.most))
        kept -= set(step.edges)
        cuts.append(step)
    return Pruned(budget, tuple(sorted(kept)), tuple(cuts))


def _price(step: Cut, excess: float) -> float:
    """Bits lost for each unit saved. Saving more than the excess counts for nothing."""
    useful = min(step.saved, excess) if excess > 0 else step.saved
    return step.lost.value / max(useful, 1e-9)  # what costs nothing goes last


def _step(trials: Trials, kept: Edges, edge: int, costs: Sequence[float], seed: int) -> Cut:
    """The step that removes this edge, and those that reach nobody without it."""
    rest = _live(trials, kept - {edge})
    lost = bits(trials.ask(kept, write=False), trials.ask(rest, write=False))
    gone = tuple(sorted(kept - rest))
    return Cut(gone, mean(lost, seed=seed), sum(costs[n] for n in gone))


def _live(trials: Trials, kept: Edges) -> Edges:
    """Those of the edges whose messages reach the answering agent."""
    edges = trials.pipeline.edges
    chosen = [edges[n] for n in sorted(kept)]
    reaching = {id(edge) for edge in edges_to(chosen, trials.pipeline.order[-1])}
    return frozenset(n for n in kept if id(edges[n]) in reaching)
