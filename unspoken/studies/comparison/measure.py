"""Comparison of pipelines on the same items, with the controls that tell content from presence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unspoken.errors import DataError, PipelineError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.identity import identity
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.comparison.report import Report
from unspoken.tasks import Task, partners

__all__ = ["compare"]


def compare(
    pipelines: Mapping[str, Pipeline],
    task: Task,
    *,
    constants: Mapping[str, Pipeline] | None = None,
    adapted: Mapping[str, Pipeline] | None = None,
    information: Mapping[str, Information] | None = None,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Report:
    """Answer the task's test items over each channel, with and without the right message.

    pipelines: name of a channel -> pipeline whose last agent answers. Each is asked in the
    conditions `none` (no message), `matched`, and `deranged` (a mismatched message: all agents but
    the answering one work on another item of similar length). constants: the pipeline for
    `constant`, free vectors instead of a message; adapted: the one for `lora`, a receiver that was
    trained itself and receives no message. information: usable bits by channel, see `informed`, for
    the report. All conditions answer the same `limit` items, chosen by `seed`.

    With `out`, predictions are kept there per item and arm as they come. Arms that are there
    already, from the same models, items and settings, are not run again, and the report says that
    their seconds are those of an earlier run. Raises `DataError`, `PipelineError`, and `NoIdentity`
    for a channel that cannot be told from others, before any forward pass.
    """
    controls = {"constant": constants or {}, "lora": adapted or {}}
    controlled = [one for by_channel in controls.values() for one in by_channel.values()]
    _check_controls(pipelines, controls)
    if not task.test or not pipelines or (limit is not None and limit < 2):
        raise DataError("a comparison needs at least one pipeline and two test items")
    for pipeline in (*pipelines.values(), *controlled):
        identity(pipeline)
    items = sample(task.test, limit, seed)
    other = partners(items, seed)
    evaluator = Evaluator(items, batch_size, Store(out))
    arms: list[Arm] = []
    for name, pipeline in pipelines.items():
        arms.append(evaluator.arm(name, "none", pipeline.without_messages()))
        arms.append(evaluator.arm(name, "matched", pipeline))
        arms.append(evaluator.arm(name, "deranged", pipeline, other))
        for control, by_channel in controls.items():
            if name in by_channel:
                arms.append(evaluator.arm(name, control, by_channel[name]))
    report = Report(
        arms=tuple(arms),
        information=dict(information or {}),
        **about(
            [*pipelines.values(), *controlled],
            task,
            len(items),
            seed,
            notes,
            overlap=asdict(task.overlap),
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _check_controls(
    pipelines: Mapping[str, Pipeline], controls: Mapping[str, Mapping[str, Pipeline]]
) -> None:
    for control, by_channel in controls.items():
        if odd := set(by_channel) - set(pipelines):
            raise PipelineError(
                f"{control} pipelines for {sorted(odd)}, but there are {sorted(pipelines)}"
            )
