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
from unspoken.identity import digest
from unspoken.pipeline import Pipeline
from unspoken.studies.fronts.clock import Clock, Clocks, clocked
from unspoken.studies.fronts.report import Channelled, FrontsReport, Kind
from unspoken.tasks import Task, partners

__all__ = ["fronts"]


@dataclass(frozen=True)
class _Asked:
    """What was measured of one arm.

    rows: the answers to the right messages, item by item. controlled: which of them are right, for
    the items that the controls are asked about.
    """

    matched: Arm
    none: Arm
    deranged: Arm
    constant: Arm | None
    rows: Sequence[Prediction]
    controlled: Sequence[bool]


@dataclass(frozen=True)
class _Controls:
    """Asks about the items of the controls. other: of each item, the one whose message it gets."""

    evaluator: Evaluator
    other: Sequence[int]

    @classmethod
    def of(cls, evaluator: Evaluator, controls: int | None, seed: int) -> _Controls:
        """`controls` items of an evaluator's, drawn by seed; all of them without a number."""
        items = sample(evaluator.items, controls, seed)
        return cls(evaluator.about(items), partners(items, seed))

    def arm(self, name: str, condition: str, pipeline: Pipeline) -> Arm:
        other = self.other if condition == "deranged" else None
        return self.evaluator.arm(name, condition, pipeline, other)

    def among(self, rows: Sequence[Prediction]) -> list[bool]:
        """Which of the answers to these items are right."""
        right = {row.id: row.correct for row in rows}
        return [right[item.id] for item in self.evaluator.items]


def fronts(
    pipelines: Mapping[str, Pipeline],
    task: Task,
    *,
    asked: Iterable[str] = (),
    constants: Mapping[str, Pipeline] | None = None,
    timed: int = 16,
    controls: int | None = None,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> FrontsReport:
    """Accuracy, costs and both clocks of every arm, a sender and a receiver each.

    asked: the names of the arms whose senders know the question. constants: free vectors in place
    of a message, by arm. timed: how many items are asked alone, for the clocks. controls: how many
    items are asked without the right message too, None for all. Answers that `out` has already are
    not computed again. Raises `DataError` unless an arm passes on the whole text.
    """
    if not any(kind_of(one) == "verbatim" for one in pipelines.values()):
        raise DataError(
            "a front is measured against the whole text, but no arm passes it on; add a pipeline "
            "over TextChannel(verbatim=True)"
        )
    begun, store = process_time(), Store(out)
    evaluator = Evaluator(sample(task.test, limit, seed), batch_size, store)
    constants = constants or {}
    control = _Controls.of(evaluator, controls, seed)
    found = {
        name: _ask(name, pipeline, evaluator, control, constants.get(name))
        for name, pipeline in pipelines.items()
    }
    clocks = _timed(pipelines, evaluator, timed)
    known = set(asked)
    verbatim = max(
        (one for name, one in found.items() if kind_of(pipelines[name]) == "verbatim"),
        key=lambda one: one.matched.accuracy,
    )
    report = FrontsReport(
        arms=tuple(
            _channelled(
                name, pipelines[name], one, verbatim, clocks.arms[name], asked=name in known
            )
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
    control: _Controls,
    constant: Pipeline | None,
) -> _Asked:
    """Ask one arm in all conditions. What the store has is not asked again."""
    rows = evaluator.predictions(name, "matched", pipeline)
    return _Asked(
        matched=Arm.of(name, "matched", rows),
        none=control.arm(name, "none", pipeline.without_messages()),
        deranged=control.arm(name, "deranged", pipeline),
        constant=None if constant is None else control.arm(name, "constant", constant),
        rows=rows,
        controlled=control.among(rows),
    )


def _timed(pipelines: Mapping[str, Pipeline], evaluator: Evaluator, count: int) -> Clocks:
    """The clocks of all arms, of the first `count` items."""
    few = evaluator.queries[:count]
    keys = {name: key_of(pipeline, few, "clock") for name, pipeline in pipelines.items()}
    return evaluator.store.get(
        "clocks.json", digest(keys)[:16], Clocks, lambda: clocked(pipelines, few, "clocks")
    )


def _channelled(
    name: str, pipeline: Pipeline, found: _Asked, verbatim: _Asked, clock: Clock, *, asked: bool
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
        gain=difference(found.controlled, found.none.correct),
        content=difference(found.controlled, found.deranged.correct),
        against=difference(right, verbatim.matched.correct),
        clock=clock,
    )
