"""A pipeline read densely and from pools of caches."""

from unspoken.recipe.study import Study
from unspoken.studies.reuse.measure import compare_reuse
from unspoken.studies.reuse.recipe import run_reuse
from unspoken.studies.reuse.report import ReuseArm, ReuseReport
from unspoken.studies.reuse.settings import ReuseRecipe

__all__ = ["STUDY", "ReuseArm", "ReuseRecipe", "ReuseReport", "compare_reuse", "run_reuse"]

STUDY = Study(
    name="reuse",
    command="compare",
    title="What does reading once save?",
    measures=ReuseRecipe,
    run=run_reuse,
    file="results.json",
    report=ReuseReport,
    recipes=(ReuseRecipe,),
    owns=lambda content: "channels" not in content,
    section="unspoken.studies.reuse.section",
)
