"""Which edges matter, by recipe: a graph is learned if asked for, then every edge is weighed."""

from __future__ import annotations

from typing import cast

from unspoken.page import write_picture
from unspoken.recipe.config import PipelineRecipe
from unspoken.recipe.loading import kept as settings_of
from unspoken.recipe.pipeline import build
from unspoken.studies.edges.learning import learn_graph
from unspoken.studies.edges.measure import weigh_edges
from unspoken.studies.edges.pruning import Budget
from unspoken.studies.edges.report import GraphReport
from unspoken.studies.edges.section import chart
from unspoken.studies.edges.settings import EdgesSettings
from unspoken.tasks import load_task
from unspoken.training.graph import kept

__all__ = ["run_edges"]


def run_edges(recipe: PipelineRecipe, settings: EdgesSettings) -> GraphReport:
    """Weigh the edges of a pipeline; the report and its picture go to `out`."""
    task = load_task(recipe.asked)
    pipeline = build(recipe)
    graphs: dict[str, tuple[int, ...]] = {}
    notes = settings_of(recipe)
    if settings.graph is not None:
        learned, gates = learn_graph(recipe, settings.graph, pipeline, task)
        graphs["learned"] = kept(pipeline, gates, learned)
        logits = cast(list[float], gates.logits.tolist())
        notes["logits"] = {str(n): logit for n, logit in zip(learned, logits, strict=True)}
    budget = settings.budget
    report = weigh_edges(
        pipeline,
        task,
        items=settings.items,
        budget=None if budget is None else Budget(budget.most, budget.unit),
        graphs=graphs,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=notes,
    )
    title = f"{task.name}, n = {report.task['attributed']}: bits that each edge adds"
    write_picture(chart(report), recipe.out / "edges.svg", title)
    return report
