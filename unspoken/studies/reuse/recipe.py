"""Reuse by recipe: one pipeline, read densely and from a pool for each ladder."""

from __future__ import annotations

from unspoken.anchors import AnchorPool
from unspoken.recipe.config import PipelineRecipe
from unspoken.recipe.loading import kept
from unspoken.recipe.pipeline import build
from unspoken.studies.reuse.measure import compare_reuse
from unspoken.studies.reuse.report import ReuseReport
from unspoken.studies.reuse.settings import ReuseSettings
from unspoken.tasks import load_task

__all__ = ["run_reuse"]


def run_reuse(recipe: PipelineRecipe, settings: ReuseSettings) -> ReuseReport:
    """Run a pipeline densely and from pools of caches; write the report to `out`."""
    task = load_task(recipe.asked)
    pools = {
        name: AnchorPool(name, **settings.pool.model_dump(), seed=recipe.seed)
        for name in settings.ladders
    }
    return compare_reuse(
        build(recipe),
        task,
        pools,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=kept(recipe),
    )
