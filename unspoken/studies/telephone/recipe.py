"""The telephone game by recipe: train what is missing, then pass facts on."""

from __future__ import annotations

from unspoken.recipe.config import TelephoneRecipe
from unspoken.relay.relay import Relay
from unspoken.studies.comparison.recipe import asked, noted
from unspoken.studies.rate.recipe import curves
from unspoken.studies.telephone import Line, TelephoneReport, play

__all__ = ["run_telephone"]


def run_telephone(recipe: TelephoneRecipe) -> TelephoneReport:
    """Play over every channel of the recipe; the report and its picture go to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    folder = recipe.trained or recipe.out / "trained"
    lines = {
        name: Line(line, relay.restating(line))
        for name, settings in curves(relay, recipe, folder)
        for line in settings.values()
    }
    return play(
        lines,
        task,
        hops=recipe.hops,
        expected=relay.answer,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
