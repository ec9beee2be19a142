"""Plan a team by recipe: train what is missing, then calibrate, enumerate and check."""

from __future__ import annotations

from unspoken.page import write_picture
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import curves, made, noted
from unspoken.studies.teams.measure import plan_team
from unspoken.studies.teams.report import PlanReport
from unspoken.studies.teams.section import chart
from unspoken.studies.teams.settings import TeamsSettings

__all__ = ["run_plan"]


def run_plan(recipe: RelayRecipe, settings: TeamsSettings) -> PlanReport:
    """Plan with every channel of the recipe; the report and its picture go to `out`."""
    ready = made(recipe, lambda relay: dict(curves(relay, settings.lengths)))
    relay = ready.relay
    report = plan_team(
        ready.found,
        relay.decider(),
        ready.task,
        settings.terms,
        expected=relay.answer,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
    title = f"{report.title}: one agent as measured, teams as predicted"
    write_picture(chart(report), recipe.out / "plan.svg", title)
    return report
