"""Weighing the edges of a pipeline, and asking other items over what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unspoken.errors import DataError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.statistics import difference
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.edges.attribution import attribute
from unspoken.studies.edges.pruning import Budget, Pruned, prune
from unspoken.studies.edges.report import (
    ALL,
    NONE,
    PRUNED,
    REST,
    Against,
    GraphReport,
    condition_of,
)
from unspoken.studies.edges.trials import Trials
from unspoken.tasks import Task, partners

__all__ = ["weigh_edges"]


def weigh_edges(
    pipeline: Pipeline,
    task: Task,
    *,
    items: int = 64,
    budget: Budget | None = None,
    graphs: Mapping[str, Sequence[int]] | None = None,
    expected: Expected = expected_answer,
    limit: int | None = 100,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> GraphReport:
    """Attribute answers to edges, prune under a budget, and ask other items over what is left.

    items: of the validation split, for attribution and pruning; limit: of the test split, drawn as
    `compare` draws them. graphs: more graphs to ask, by the numbers of their edges. With `out`,
    the report, outcomes and predictions are kept there. What is there already, from the same
    models, items and settings, is not computed again. Raises `DataError` and `PipelineError`.
    """
    known = sample(task.validation, items, seed)
    if len(known) < 2 or len(task.test) < 2 or (limit is not None and limit < 2):
        raise DataError(
            f"edges are weighed on two validation items or more and two test items or more, got "
            f"{len(known)} and {len(task.test)} with limit={limit}; give more data, or set "
            "task.validation above 1"
        )
    evaluator = Evaluator(known, batch_size, Store(out))
    trials = Trials(pipeline, evaluator, partners(known, seed), expected=expected)
    worths = attribute(trials, seed=seed)
    whole = trials.ask(trials.every)
    pruned = None if budget is None else prune(trials, budget, seed=seed)
    drawn = _graphs(pipeline, pruned, graphs or {})
    test = sample(task.test, limit, seed)
    arms = tuple(_arms(pipeline, drawn, evaluator.about(test), seed))
    report = GraphReport(
        order=tuple(pipeline.order),
        edges=worths,
        accuracy=sum(whole.correct) / len(known),
        pruned=pruned,
        graphs=drawn,
        arms=arms,
        differences=_differences(drawn, arms),
        **about(
            [pipeline],
            task,
            len(test),
            seed,
            notes,
            attributed=len(known),
            overlap=_overlap(task),
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _graphs(
    pipeline: Pipeline, pruned: Pruned | None, more: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """The graphs that are asked, by name, and the edges of each."""
    every = range(len(pipeline.edges))
    found: dict[str, tuple[int, ...]] = {ALL: tuple(every)}
    if pruned is not None:
        found[PRUNED] = pruned.kept
        if rest := tuple(n for n in every if n not in pruned.kept):
            found[REST] = rest
    found |= {name: tuple(numbers) for name, numbers in more.items()}
    return {**found, NONE: ()}


def _arms(
    pipeline: Pipeline, graphs: Mapping[str, Sequence[int]], evaluator: Evaluator, seed: int
) -> Iterator[Arm]:
    other = partners(evaluator.items, seed)
    for name, numbers in graphs.items():
        graph = pipeline.with_edges([pipeline.edges[n] for n in numbers])
        yield evaluator.arm(name, condition_of(numbers), graph)
        if numbers:
            yield evaluator.arm(name, "deranged", graph, other)


def _differences(graphs: Mapping[str, Sequence[int]], arms: Sequence[Arm]) -> dict[str, Against]:
    right = {(arm.channel, arm.condition): arm.correct for arm in arms}
    everything = right[ALL, condition_of(graphs[ALL])]
    return {
        name: Against(
            difference(right[name, condition_of(numbers)], everything),
            difference(right[name, "matched"], right[name, "deranged"]) if numbers else None,
        )
        for name, numbers in graphs.items()
    }


def _overlap(task: Task) -> dict[str, int]:
    """How many facts and questions are in both validation and test."""
    pair = "validation/test"
    return {"facts": task.overlap.facts[pair], "questions": task.overlap.questions[pair]}
