"""A pipeline read densely and from pools of caches."""

from unspoken.recipe.study import Study
from unspoken.studies.reuse.measure import compare_reuse
from unspoken.studies.reuse.recipe import run_reuse
from unspoken.studies.reuse.report import ReuseArm, ReuseReport
from unspoken.studies.reuse.settings import ReuseSettings

__all__ = ["STUDY", "ReuseArm", "ReuseReport", "ReuseSettings", "compare_reuse", "run_reuse"]

STUDY = Study(
    name="reuse",
    title="What does reading once save?",
    kind="pipeline",
    settings=ReuseSettings,
    run=run_reuse,
    file="results.json",
    report=ReuseReport,
    owns=lambda content: "channels" not in content,
    section="unspoken.studies.reuse.section",
)
