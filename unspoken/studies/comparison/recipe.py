"""Comparison by recipe: train what is missing, then compare."""

from __future__ import annotations

from unspoken.evaluation.bits import Information, informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.items import chosen
from unspoken.evaluation.store import Store
from unspoken.page import accuracies, write_png
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import Prepared, noted, prepared
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.report import Report

__all__ = ["run_comparison"]


def run_comparison(recipe: RelayRecipe) -> Report:
    """Train the projector and its controls if need be, compare, and write the report to `out`."""
    ready = prepared(recipe)
    found = ready.found
    report = compare(
        found.pipelines,
        ready.task,
        constants=found.constants,
        adapted=found.adapted,
        information=_information(ready, recipe) if recipe.worth.column else None,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes={
            "training_seconds": round(ready.seconds, 1),
            **found.notes,
            **noted(ready.relay, recipe),
        },
    )
    title = f"{report.title}: what was the message worth?"
    write_png(accuracies(report.arms), recipe.out / "report.png", title)
    return report


def _information(ready: Prepared, recipe: RelayRecipe) -> dict[str, Information]:
    items = chosen(ready.task, recipe.worth.items, recipe.limit, recipe.seed)
    evaluator = Evaluator(items, recipe.batch_size, Store(recipe.out))
    pipelines, answer = ready.found.pipelines, ready.relay.answer
    return informed(pipelines, evaluator, expected=answer, seed=recipe.seed)
