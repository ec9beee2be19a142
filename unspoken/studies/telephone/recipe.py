"""The telephone game by recipe: train what is missing, then pass facts on."""

from __future__ import annotations

from unspoken.page import write_png
from unspoken.relay.pipelines import asked, curves, noted
from unspoken.relay.relay import Relay
from unspoken.studies.telephone.measure import Players, play
from unspoken.studies.telephone.report import TelephoneReport
from unspoken.studies.telephone.section import chart
from unspoken.studies.telephone.settings import TelephoneRecipe

__all__ = ["run_telephone"]


def run_telephone(recipe: TelephoneRecipe) -> TelephoneReport:
    """Play over every channel of the recipe; the report and its picture go to `out`."""
    relay = Relay.of(recipe)
    task = asked(relay, recipe)
    channels = {
        name: Players(pipeline, relay.restating(pipeline))
        for name, settings in curves(relay, recipe)
        for pipeline in settings.values()
    }
    report = play(
        channels,
        task,
        hops=recipe.hops,
        expected=relay.answer,
        limit=recipe.limit,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
    write_png(chart(report), recipe.out / "telephone.png", f"{report.title}: telephone")
    return report
