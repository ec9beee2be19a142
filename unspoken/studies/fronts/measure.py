"""Asking every arm, with controls, and timing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

from unspoken.channels import TextChannel
from unspoken.errors import DataError
from unspoken.evaluation.arm import Arm, Prediction
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.identity import key_of
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.statistics import difference
from unspoken.evaluation.store import Store
from unspoken.files import file_name
from unspoken.pipeline import Pipeline
from unspoken.studies.fronts.clock import Clock, clocked
from unspoken.studies.fronts.report import Channelled, FrontsReport, Kind
from unspoken.tasks import Task, partners

__all__ = ["fronts"]


@dataclass(frozen=True)
class _Asked:
    """What was measured of one arm. rows: the answers to the right messages, item by item."""

    matched: Arm
    none: Arm
    deranged: Arm
    constant: Arm | None
    rows: Sequence[Prediction]
    clock: Clock


def fronts(
    pipelines: Mapping[str, Pipeline],
    task: Task,
    *,
    asked: Iterable[str] = (),
    constants: Mapping[str, Pipeline] | None = None,
    timed: int = 16,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> FrontsReport:
    """Accuracy, costs and both clocks of every arm, a sender and a receiver each.

    asked: the names of the arms whose senders know the question. constants: free vectors in place
    of a message, by arm. timed: how many items are asked alone, for the clocks. Answers that `out`
    has already are not computed again. Raises `DataError` unless an arm passes on the whole text.
    """
    if not any(kind_of(one) == "verbatim" for one in pipelines.values()):
        raise DataError(
            "a front is measured against the whole text, but no arm passes it on; add a pipeline "
            "over TextChannel(verbatim=True)"
        )
    begun, store = process_time(), Store(out)
    evaluator = Evaluator(sample(task.test, limit, seed), batch_size, store)
    constants = constants or {}
    other = partners(evaluator.items, seed)
    found = {
        name: _ask(name, pipeline, evaluator, other, constants.get(name), timed)
        for name, pipeline in pipelines.items()
    }
    known = set(asked)
    verbatim = max(
        (one for name, one in found.items() if kind_of(pipelines[name]) == "verbatim"),
        key=lambda one: one.matched.accuracy,
    )
    report = FrontsReport(
        arms=tuple(
            _channelled(name, pipelines[name], one, verbatim, asked=name in known)
            for name, one in found.items()
        ),
        **about(
            pipelines.values(),
            task,
            len(evaluator.items),
            seed,
            {**(notes or {}), "cpu_hours_of_this_run": round((process_time() - begun) / 3600, 3)},
        ),
    )
    if out is not None:
        report.save(out)
    return report


def kind_of(pipeline: Pipeline) -> Kind:
    """What travels over the one edge of a pipeline."""
    (edge,) = pipeline.edges
    if not isinstance(edge.channel, TextChannel):
        return "latent"
    return "verbatim" if edge.channel.verbatim and edge.channel.limit is None else "words"


def _ask(
    name: str,
    pipeline: Pipeline,
    evaluator: Evaluator,
    other: Sequence[int],
    constant: Pipeline | None,
    timed: int,
) -> _Asked:
    """Ask one arm in all conditions. What the store has is not asked again."""
    rows = evaluator.predictions(name, "matched", pipeline)
    few = evaluator.queries[:timed]
    clock = evaluator.store.get(
        f"clocks/{file_name(name)}.json",
        key_of(pipeline, few, "clock"),
        Clock,
        lambda: clocked(pipeline, few, f"{name}, clock"),
    )
    return _Asked(
        matched=Arm.of(name, "matched", rows),
        none=evaluator.arm(name, "none", pipeline.without_messages()),
        deranged=evaluator.arm(name, "deranged", pipeline, other),
        constant=None if constant is None else evaluator.arm(name, "constant", constant),
        rows=rows,
        clock=clock,
    )


def _channelled(
    name: str, pipeline: Pipeline, found: _Asked, verbatim: _Asked, *, asked: bool
) -> Channelled:
    right = found.matched.correct
    (edge,) = pipeline.edges

    def tokens(agent: str, what: str) -> float:
        return fmean(getattr(row.costs[agent], what) for row in found.rows)

    return Channelled(
        name=name,
        kind=kind_of(pipeline),
        asked=asked,
        matched=found.matched,
        none=found.none,
        deranged=found.deranged,
        constant=found.constant,
        sender_read=tokens(edge.sender, "read"),
        sender_written=tokens(edge.sender, "written"),
        receiver_read=tokens(edge.receiver, "read"),
        receiver_written=tokens(edge.receiver, "written"),
        gain=difference(right, found.none.correct),
        content=difference(right, found.deranged.correct),
        against=difference(right, verbatim.matched.correct),
        clock=found.clock,
    )
