"""Which channel pays, by recipe: train what is missing, then ask and time every arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from unspoken.page import write_picture
from unspoken.pipeline import Pipeline
from unspoken.projectors import FreeVectors
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import ProjectorSettings
from unspoken.relay.pipelines import RelayPipelines, made, noted
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, train_reader, trained_folder
from unspoken.relay.trained import trained_pipeline
from unspoken.studies.fronts.measure import fronts
from unspoken.studies.fronts.report import FrontsReport
from unspoken.studies.fronts.section import chart
from unspoken.studies.fronts.settings import FrontsSettings

__all__ = ["run_fronts"]


def run_fronts(recipe: RelayRecipe, settings: FrontsSettings) -> FrontsReport:
    """Measure the arms of a recipe; the report and its picture go to `out`."""
    ready = made(recipe, lambda relay: _Arms.of(relay, settings))
    relay, arms = ready.relay, ready.found
    report = fronts(
        arms.pipelines,
        ready.task,
        asked=arms.asked,
        constants=arms.constants,
        timed=settings.timed,
        controls=settings.controls,
        limit=recipe.compared.limit,
        seed=recipe.seed,
        batch_size=recipe.compared.batch_size,
        out=recipe.out,
        notes=noted(relay, recipe),
    )
    write_picture(chart(report), recipe.out / "fronts.svg", f"{report.title}: which channel pays?")
    return report


@dataclass(frozen=True)
class _Arms:
    """Pipelines by arm, the names of those that know the question, and constant vectors."""

    pipelines: Mapping[str, Pipeline]
    asked: frozenset[str]
    constants: Mapping[str, Pipeline]

    @classmethod
    def of(cls, relay: Relay, settings: FrontsSettings) -> _Arms:
        """All arms of a recipe. What they need and is not trained yet is trained."""
        searching = _searched(relay, settings, None)  # refused before anything is trained
        found = RelayPipelines.of(relay, lora=False)
        soft = train_reader(relay, trained_folder(relay.recipe))
        more = _written(relay, settings, None)
        if soft is not None:
            more |= _tuned(_written(relay, settings, soft))
            searching |= _tuned(_searched(relay, settings, soft))
        trained = {one.name: _over(relay, one.projector) for one in settings.trained}
        return cls(
            pipelines={**found.pipelines, **more, **trained, **searching},
            asked=frozenset(searching) | frozenset(settings.asked),
            constants=found.constants,
        )


def _written(
    relay: Relay, settings: FrontsSettings, soft: FreeVectors | None
) -> dict[str, Pipeline]:
    """Notes and excerpts of each length, and the hand-over between the receiver's own weights."""
    found = {f"note of {n} tokens": relay.text(soft, n) for n in settings.notes}
    found |= {f"first {n} tokens": relay.full_text(soft, n) for n in settings.excerpts}
    return {**found, "handoff": relay.handoff(soft)} if settings.handoff else found


def _searched(
    relay: Relay, settings: FrontsSettings, soft: FreeVectors | None
) -> dict[str, Pipeline]:
    """The sentences that fit the question best, by their number."""
    return {f"found sentences, {n}": relay.sentences(soft, n) for n in settings.sentences}


def _tuned(pipelines: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    return {f"{name}, tuned reader": one for name, one in pipelines.items()}


def _over(relay: Relay, projector: ProjectorSettings) -> Pipeline:
    """The pipeline over a further trained channel, trained as the recipe's own."""
    other = replace(relay, recipe=relay.recipe.model_copy(update={"projector": projector}))
    return trained_pipeline(other, train_projector(other, trained_folder(relay.recipe))[0])
