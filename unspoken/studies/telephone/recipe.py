"""The telephone game by recipe: train what is missing, then pass facts on."""

from __future__ import annotations

from unspoken.page import write_picture
from unspoken.recipe.config import RelayRecipe
from unspoken.relay.pipelines import curves, made, noted
from unspoken.studies.telephone.measure import Players, play
from unspoken.studies.telephone.report import TelephoneReport
from unspoken.studies.telephone.section import chart
from unspoken.studies.telephone.settings import TelephoneSettings

__all__ = ["run_telephone"]


def run_telephone(recipe: RelayRecipe, settings: TelephoneSettings) -> TelephoneReport:
    """Play over every channel of the recipe; the report and its picture go to `out`."""
    ready = made(recipe, lambda relay: dict(curves(relay)))
    relay = ready.relay
    channels = {
        name: Players(pipeline, relay.restating(pipeline))
        for name, lengths in ready.found.items()
        for pipeline in lengths.values()
    }
    report = play(
        channels,
        ready.task,
        hops=settings.hops,
        expected=relay.answer,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
    write_picture(chart(report), recipe.out / "telephone.svg", f"{report.title}: telephone")
    return report
