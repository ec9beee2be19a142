"""A diffusion planner and an executor: how the planner is taught, and whose fault an error is."""

from unspoken.recipe.study import Study
from unspoken.studies.planner.measure import attribute, holds
from unspoken.studies.planner.recipe import prepared_planners, run_planner
from unspoken.studies.planner.report import Blame, PlannerReport
from unspoken.studies.planner.settings import (
    PlannerRecipe,
    PlannerSettings,
    TeachingSettings,
    check_planners,
)
from unspoken.studies.planner.teaching import train_planner, train_planner_by

__all__ = [
    "STUDY",
    "Blame",
    "PlannerRecipe",
    "PlannerReport",
    "PlannerSettings",
    "TeachingSettings",
    "attribute",
    "holds",
    "run_planner",
    "train_planner",
]

STUDY = Study(
    name="planner",
    title="Whose fault is a wrong answer?",
    kind="relay",
    settings=PlannerSettings,
    run=run_planner,
    file="blame.json",
    report=PlannerReport,
    check=check_planners,
    section="unspoken.studies.planner.section",
    recipe=PlannerRecipe,
    train=train_planner_by,
    prepare=prepared_planners,
)
