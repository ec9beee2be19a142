"""Asking a pipeline densely and from pools of caches, on the same items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from unspoken.anchors import AnchorPool
from unspoken.errors import DataError
from unspoken.evaluation.items import query, sample
from unspoken.evaluation.result import about
from unspoken.evaluation.statistics import difference, wilson
from unspoken.files import file_name, write_text
from unspoken.pipeline import Pipeline, Run
from unspoken.studies.reuse.report import ReuseArm, ReuseReport
from unspoken.tasks import Item, Task, matches

__all__ = ["compare_reuse"]


def compare_reuse(
    pipeline: Pipeline,
    task: Task,
    pools: Mapping[str, AnchorPool],
    *,
    limit: int | None = 50,
    seed: int = 0,
    batch_size: int = 1,
    out: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> ReuseReport:
    """Answer the task's test items densely, then from each pool, which begins empty.

    With `out`, the report is kept there, and for each arm what every agent wrote. Raises
    `DataError` before any forward pass.
    """
    if not task.test or not pools or (limit is not None and limit < 2):
        raise DataError("a comparison needs at least one pool and two test items")
    items = sample(task.test, limit, seed)
    ways = {"dense": pipeline, **{way: pipeline.served_by(pool) for way, pool in pools.items()}}
    runs: dict[str, list[Run]] = {}
    for way, served in ways.items():
        queries = [query(item) for item in items]
        runs[way] = served.run_many(queries, batch_size=batch_size, progress=way)
        if out is not None:
            rows = [_row(item, run) for item, run in zip(items, runs[way], strict=True)]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(Path(out, "predictions", f"{file_name(way)}.jsonl"), text)
    report = ReuseReport(
        arms=tuple(
            _arm(way, items, found, runs["dense"], pools.get(way)) for way, found in runs.items()
        ),
        **about([pipeline], task, len(items), seed, notes),
    )
    if out is not None:
        report.save(out)
    return report


def _arm(
    way: str,
    items: Sequence[Item],
    runs: Sequence[Run],
    dense: Sequence[Run],
    pool: AnchorPool | None,
) -> ReuseArm:
    def right(found: Sequence[Run]) -> list[bool]:
        return [matches(run.answer, item.answers) for run, item in zip(found, items, strict=True)]

    correct = right(runs)
    interval = wilson(sum(correct), len(correct))
    names = dict.fromkeys(turn.agent for turn in runs[0].turns)
    read, reused = (sum(getattr(run.usage, kind) for run in runs) for kind in ("read", "reused"))
    return ReuseArm(
        way=way,
        n=len(items),
        accuracy=sum(correct) / len(correct),
        ci_low=interval.low,
        ci_high=interval.high,
        against_dense=None if pool is None else difference(correct, right(dense)),
        agreement={name: _agreement(name, runs, dense) for name in names},
        wait={name: median(_of(name, runs, "wait")) for name in names},
        request=median(run.usage.wait for run in runs),
        reused=reused / max(1, read + reused),
        pool={} if pool is None else asdict(pool.state()),
    )


def _of(agent: str, runs: Sequence[Run], cost: str) -> list[float]:
    return [getattr(t.usage, cost) for run in runs for t in run.turns if t.agent == agent]


def _agreement(agent: str, runs: Sequence[Run], dense: Sequence[Run]) -> float:
    pairs = [
        one.text == other.text
        for run, twin in zip(runs, dense, strict=True)
        for one, other in zip(run.turns, twin.turns, strict=True)
        if one.agent == agent
    ]
    return sum(pairs) / len(pairs)


def _row(item: Item, run: Run) -> dict[str, Any]:
    return {
        "id": item.id,
        "question": item.question,
        "answers": list(item.answers),
        "prediction": run.answer,
        "correct": matches(run.answer, item.answers),
        "turns": [asdict(turn) for turn in run.turns],
    }
