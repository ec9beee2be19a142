"""When a team pays: the theory, its calibration on a task, the plan, and a vote that checks it."""

from unspoken.studies.teams.calibrate import Law, correlation, fit_law
from unspoken.studies.teams.measure import Terms, plan_team
from unspoken.studies.teams.report import PlanReport, Vote
from unspoken.studies.teams.theory import Team, majority, slope

__all__ = [
    "Law",
    "PlanReport",
    "Team",
    "Terms",
    "Vote",
    "correlation",
    "fit_law",
    "majority",
    "plan_team",
    "slope",
]
