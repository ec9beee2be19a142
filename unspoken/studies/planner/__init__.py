"""A diffusion planner and an executor: how the planner is taught, and whose fault an error is."""

from unspoken.recipe.study import Study
from unspoken.studies.planner.measure import attribute, holds
from unspoken.studies.planner.recipe import run_planner
from unspoken.studies.planner.report import Blame, PlannerReport
from unspoken.studies.planner.settings import PlannerExecutorRecipe, PlannerRecipe
from unspoken.studies.planner.teaching import train_planner

__all__ = [
    "STUDY",
    "Blame",
    "PlannerExecutorRecipe",
    "PlannerRecipe",
    "PlannerReport",
    "attribute",
    "holds",
    "run_planner",
    "train_planner",
]

STUDY = Study(
    name="planner",
    command="compare",
    title="Whose fault is a wrong answer?",
    measures=PlannerExecutorRecipe,
    run=run_planner,
    file="blame.json",
    report=PlannerReport,
    recipes=(PlannerRecipe, PlannerExecutorRecipe),
    section="unspoken.studies.planner.section",
)
