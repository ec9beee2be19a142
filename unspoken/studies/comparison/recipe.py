"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

from unspoken.evaluation.bits import Information, informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.items import chosen
from unspoken.evaluation.store import Store
from unspoken.page import write_picture
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import Prepared, RelayPipelines, noted, prepared
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.report import Report
from unspoken.studies.comparison.section import chart
from unspoken.studies.comparison.settings import ComparisonSettings

__all__ = ["run_comparison"]


def run_comparison(recipe: RelayRecipe, settings: ComparisonSettings) -> Report:
    """Train the projector and its controls if need be, compare, and write the report to `out`."""
    ready = prepared(recipe)
    found = ready.found
    report = compare(
        found.pipelines,
        ready.task,
        constants=found.constants,
        adapted=found.adapted,
        information=_information(ready, recipe, settings.bits) if settings.bits else None,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes={
            "training_seconds": round(ready.seconds, 1),
            **found.notes,
            **noted(ready.relay, recipe),
        },
    )
    title = f"{report.title}: what was the message worth?"
    write_picture(chart(report.arms), recipe.out / "report.svg", title)
    return report


def _information(
    ready: Prepared[RelayPipelines], recipe: RelayRecipe, count: int
) -> dict[str, Information]:
    items = chosen(ready.task, count, recipe.compared.limit, recipe.seed)
    evaluator = Evaluator(items, recipe.compared.batch_size, Store(recipe.out))
    pipelines, answer = ready.found.pipelines, ready.relay.answer
    return informed(pipelines, evaluator, expected=answer, seed=recipe.seed)
