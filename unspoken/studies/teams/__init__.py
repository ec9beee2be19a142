"""When a team pays: the theory, its calibration on a task, the plan, and a vote that checks it."""

from unspoken.recipe.study import Study
from unspoken.studies.teams.calibrate import Law, correlation, fit_law
from unspoken.studies.teams.measure import plan_team
from unspoken.studies.teams.recipe import run_plan
from unspoken.studies.teams.report import PlanReport, Vote
from unspoken.studies.teams.settings import PlanRecipe, Terms
from unspoken.studies.teams.theory import Team, majority, slope

__all__ = [
    "STUDY",
    "Law",
    "PlanRecipe",
    "PlanReport",
    "Team",
    "Terms",
    "Vote",
    "correlation",
    "fit_law",
    "majority",
    "plan_team",
    "run_plan",
    "slope",
]

STUDY = Study(
    name="teams",
    command="plan",
    title="When does a team pay?",
    measures=PlanRecipe,
    run=run_plan,
    file="plan.json",
    report=PlanReport,
    recipes=(PlanRecipe,),
    section="unspoken.studies.teams.section",
)
