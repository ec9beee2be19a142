"""When a team pays: the theory, its calibration on a task, the plan, and a vote that checks it."""

from unspoken.recipe.study import Study
from unspoken.studies.teams.calibrate import Law, correlation, fit_law
from unspoken.studies.teams.measure import plan_team
from unspoken.studies.teams.recipe import run_plan
from unspoken.studies.teams.report import PlanReport, Vote
from unspoken.studies.teams.settings import TeamsSettings, Terms, check_plannable
from unspoken.studies.teams.theory import Team, majority, slope

__all__ = [
    "STUDY",
    "Law",
    "PlanReport",
    "Team",
    "TeamsSettings",
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
    title="When does a team pay?",
    kind="relay",
    settings=TeamsSettings,
    run=run_plan,
    file="plan.json",
    report=PlanReport,
    check=check_plannable,
    section="unspoken.studies.teams.section",
)
