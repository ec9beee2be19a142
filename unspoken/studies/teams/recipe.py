"""Plan a team by recipe: train what is missing, then calibrate, enumerate and check."""

from __future__ import annotations

from unspoken.recipe.config import PlanRecipe
from unspoken.relay.relay import Relay
from unspoken.studies.comparison.recipe import asked, noted
from unspoken.studies.rate.recipe import curves
from unspoken.studies.teams import PlanReport, plan_team

__all__ = ["run_plan"]


def run_plan(recipe: PlanRecipe) -> PlanReport:
    """Plan with every channel of the recipe; the report and its picture go to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    folder = recipe.trained or recipe.out / "trained"
    return plan_team(
        dict(curves(relay, recipe, folder, recipe.lengths)),
        relay.decider(),
        task,
        recipe.team,
        expected=relay.answer,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
