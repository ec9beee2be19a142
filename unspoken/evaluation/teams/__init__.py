"""When a team pays: the theory, its calibration on a task, the plan, and a vote that checks it."""

from unspoken.evaluation.teams.calibrate import Law, correlation, fit_law
from unspoken.evaluation.teams.plan import Terms, plan_team
from unspoken.evaluation.teams.report import PlanReport, Vote
from unspoken.evaluation.teams.theory import Team, majority, slope

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
