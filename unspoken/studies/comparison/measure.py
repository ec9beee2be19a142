"""Comparison of pipelines on the same items, with the controls that tell content from presence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from unspoken.errors import DataError, PipelineError
from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information
from unspoken.evaluation.identity import identity
from unspoken.evaluation.items import query, sample
from unspoken.evaluation.result import about
from unspoken.files import write_text
from unspoken.pipeline import Pipeline, Run
from unspoken.studies.comparison.report import Report
from unspoken.tasks import Item, Task, matches, partners
from unspoken.types import Usage

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
    out: Path | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Report:
    """Answer the task's test items over each channel, with and without the right message.

    pipelines: name of a channel -> pipeline whose last agent answers. Each is asked in the
    conditions `none` (no message), `matched`, and `deranged` (everybody but the answering agent
    works on another item of like length). constants: the pipeline that stands for `constant`, free
    vectors instead of a message; adapted: the one for `lora`, a receiver that was trained itself
    and hears nothing. information: usable bits by channel, see `informed`, for the report to show.
    All conditions answer the same `limit` items, chosen by `seed`.

    With `out`, predictions are kept there per item and arm as they come; arms that stand there
    already, from the same models, items and settings, are not run again. Raises `DataError` and
    `PipelineError` before any forward pass.
    """
    controls = {"constant": constants or {}, "lora": adapted or {}}
    for control, lines in controls.items():
        if odd := set(lines) - set(pipelines):
            raise PipelineError(
                f"{control} pipelines for {sorted(odd)}, but there are {sorted(pipelines)}"
            )
    if not task.test or not pipelines or (limit is not None and limit < 2):
        raise DataError("a comparison needs at least one pipeline and two test items")
    items = sample(task.test, limit, seed)
    other = partners(items, seed)
    desk = Desk(items, batch_size, out)
    arms: list[Arm] = []
    for name, pipeline in pipelines.items():
        arms.append(desk.ask(name, "none", pipeline.alone()))
        arms.append(desk.ask(name, "matched", pipeline))
        arms.append(desk.ask(name, "deranged", pipeline, other))
        for control, lines in controls.items():
            if name in lines:
                arms.append(desk.ask(name, control, lines[name]))
    report = Report(
        arms=tuple(arms),
        information=dict(information or {}),
        **about(
            [*pipelines.values(), *(p for lines in controls.values() for p in lines.values())],
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


@dataclass
class Desk:
    """Asks pipelines the same items, and remembers what was asked before."""

    items: Sequence[Item]
    batch_size: int
    out: Path | None

    def __post_init__(self) -> None:
        self.known: dict[str, list[dict[str, Any]]] = {}

    def ask(
        self, channel: str, condition: str, pipeline: Pipeline, other: Sequence[int] | None = None
    ) -> Arm:
        return Arm.of(channel, condition, self.rows(channel, condition, pipeline, other))

    def rows(
        self, channel: str, condition: str, pipeline: Pipeline, other: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """What was answered, an item a row, as it is kept."""
        queries = [query(item) for item in self.items]
        elsewhere = None if other is None else [queries[n] for n in other]
        key = _digest([identity(pipeline), queries, elsewhere])
        path = self.out / "predictions" / f"{channel}-{condition}.jsonl" if self.out else None
        rows = self.known.get(key) or _stored(path, self.items, key)
        if rows is None:
            title = f"{channel}, {condition}"
            runs = pipeline.run_many(
                queries, elsewhere=elsewhere, batch_size=self.batch_size, progress=title
            )
            rows = [
                _row(item, run, key, None if other is None else self.items[other[n]].id)
                for n, (item, run) in enumerate(zip(self.items, runs, strict=True))
            ]
        self.known[key] = rows
        if path is not None:
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return rows


def _row(item: Item, run: Run, key: str, heard: str | None) -> dict[str, Any]:
    return {
        "id": item.id,
        "question": item.question,
        "answers": list(item.answers),
        "prediction": run.answer,
        "correct": matches(run.answer, item.answers),
        "messages": {turn.agent: turn.text for turn in run.turns[:-1] if turn.text is not None},
        "message_of": heard or item.id,
        "usage": asdict(run.usage),
        "costs": {agent: asdict(cost) for agent, cost in run.costs.items()},
        "arm": key,
    }


def _stored(path: Path | None, items: Sequence[Item], key: str) -> list[dict[str, Any]] | None:
    """The rows of an arm that stands there, if they are whole and about these items."""
    if path is None or not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # every line is ended
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        sound = all(_sound(row, item, key) for row, item in zip(rows, items, strict=True))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return rows if sound else None


def _sound(row: Mapping[str, Any], item: Item, key: str) -> bool:
    found = (row["arm"], row["id"], row["answers"], row["correct"])
    right = matches(row["prediction"], item.answers)
    costs = asdict(Usage()).keys() == row["usage"].keys()
    return costs and found == (key, item.id, list(item.answers), right)


def _digest(content: Any) -> str:
    return sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]
