"""Measuring the usable bits of every channel's messages, and of a writer's notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unspoken.agents import Agent
from unspoken.evaluation.bits import informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.identity import key_of
from unspoken.evaluation.items import chosen
from unspoken.evaluation.result import about
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.information.notes import Written, estimate
from unspoken.studies.information.report import InformationReport, SampledNotes
from unspoken.tasks import Task

__all__ = ["measure_information"]


def measure_information(
    pipelines: Mapping[str, Pipeline],
    task: Task,
    *,
    items: int = 64,
    writer: Agent | None = None,
    samples: int = 1,
    expected: Expected = expected_answer,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> InformationReport:
    """Measure the usable bits of each pipeline's messages to its answering agent.

    items: N, of the `limit` test items that `compare` draws by the same seed. expected: the answer
    whose probability is asked. writer: the agent whose sampled notes the text estimator judges,
    `samples` about each item. With `out`, the report is kept there, and so are the scores. Those
    of the same models, items and settings are not computed again. Raises `DataError`.
    """
    drawn = chosen(task, items, limit, seed)
    evaluator = Evaluator(drawn, batch_size, Store(out))
    found = informed(pipelines, evaluator, expected=expected, seed=seed)
    sampled = None
    if writer is not None and samples:
        sampled = SampledNotes.of(_written(writer, evaluator, samples, seed), seed)
    report = InformationReport(
        channels=tuple(found.values()),
        spoken=sampled,
        **about(pipelines.values(), task, len(drawn), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report


def _written(writer: Agent, evaluator: Evaluator, samples: int, seed: int) -> Written:
    """The text estimate of a writer, kept beside the scores."""
    queries, batch_size = evaluator.queries, evaluator.batch_size
    return evaluator.store.get(
        "information/sampled notes.json",
        key_of(Pipeline([writer]), queries, samples, seed, batch_size),
        Written,
        lambda: estimate(
            writer,
            queries,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            progress="sampled notes",
        ),
    )
