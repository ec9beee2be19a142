"""Measuring bits and accuracy at each setting of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unspoken.evaluation.bits import informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected, expected_answer
from unspoken.evaluation.items import chosen
from unspoken.evaluation.result import about
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.studies.rate.fit import fit
from unspoken.studies.rate.report import Point, RateReport
from unspoken.tasks import Task

__all__ = ["rates"]


def rates(
    curves: Mapping[str, Mapping[str, Pipeline]],
    task: Task,
    *,
    items: int = 32,
    expected: Expected = expected_answer,
    limit: int | None = 200,
    seed: int = 0,
    batch_size: int = 16,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> RateReport:
    """Measure usable bits and accuracy at each setting of each curve, on the same items.

    curves: name of a curve -> setting -> pipeline. items, expected, limit, seed, out: as in
    `measure_information`; with `out`, predictions are kept too. Raises `DataError`.
    """
    drawn = chosen(task, items, limit, seed)
    named = {(curve, at): one for curve, swept in curves.items() for at, one in swept.items()}
    pipelines = {f"{curve}, {at}": one for (curve, at), one in named.items()}
    evaluator = Evaluator(drawn, batch_size, Store(out))
    found = informed(pipelines, evaluator, expected=expected, seed=seed)
    points = tuple(
        Point.of(curve, at, found[name], evaluator.arm(name, "matched", pipelines[name]))
        for (curve, at), name in zip(named, pipelines, strict=True)
    )
    fits = {
        curve: fit(
            [point.bits.value for point in points if point.curve == curve],
            [point.distortion for point in points if point.curve == curve],
        )
        for curve in curves
    }
    report = RateReport(
        points=points,
        fits={curve: form for curve, form in fits.items() if form is not None},
        alone=evaluator.arm(
            "no message", "none", next(iter(pipelines.values())).without_messages()
        ),
        ceiling=next(iter(found.values())).ceiling,
        **about(pipelines.values(), task, len(drawn), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report
