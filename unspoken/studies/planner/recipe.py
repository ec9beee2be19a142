"""Planner and executor by recipe: a diffusion planner in words and states, and a causal one."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from unspoken.backbone import LanguageModel, causal, load_model
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.items import sample
from unspoken.evaluation.result import about
from unspoken.evaluation.store import Store
from unspoken.pipeline import Pipeline
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import CanvasSettings, ModelSource
from unspoken.relay.pipelines import (
    Prepared,
    RelayPipelines,
    asked,
    noted,
)
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector, train_reader, trained_folder
from unspoken.relay.trained import trained_pipeline
from unspoken.studies.planner.measure import attribute
from unspoken.studies.planner.report import PlannerReport
from unspoken.studies.planner.settings import PlannerSettings, swept
from unspoken.studies.planner.teaching import planner_of
from unspoken.tasks import Task, load_task
from unspoken.terminal import PlainConsole

__all__ = ["prepared_planners", "run_planner"]

_ORACLE, _BESIDE = "full-text", ", causal planner"


def run_planner(recipe: RelayRecipe, settings: PlannerSettings) -> PlannerReport:
    """Say whose fault wrong answers are; the report goes to `out`.

    Answers that a comparison by the same recipe left in `out` are not asked for again.
    """
    ready = prepared_planners(recipe, settings, lora=False)
    compared = recipe.compared
    items = sample(ready.task.test, compared.limit, recipe.seed)
    evaluator = Evaluator(items, compared.batch_size, Store(recipe.out))
    pipelines = ready.found.pipelines
    report = PlannerReport(
        blame=attribute(
            {
                name: evaluator.predictions(name, "matched", pipeline)
                for name, pipeline in pipelines.items()
                if not name.startswith(_ORACLE)
            },
            evaluator.predictions(_ORACLE, "matched", pipelines[_ORACLE]),
            "sender",
        ),
        **about(
            pipelines.values(), ready.task, len(items), recipe.seed, noted(ready.relay, recipe)
        ),
    )
    report.save(recipe.out)
    return report


def prepared_planners(
    recipe: RelayRecipe, settings: PlannerSettings, *, lora: bool = True
) -> Prepared[RelayPipelines]:
    """Both planners and the executor: the planner, projectors and controls are trained if need be.

    The executor is the same for both. The causal planner's pipelines carry its name. What the
    splits share is printed first.
    """
    task = load_task(recipe.task)
    _print_overlap(task)
    start = perf_counter()
    planner = planner_of(settings.recipe_for(recipe), task, trained_folder(recipe))
    executor = causal(_load(recipe.pair.receiver), "the executor answers from")
    silent = recipe.prompts.model_copy(
        update={"note_instructions": ""}
    )  # the planner was trained without
    trained = settings.teaching.training.steps > 0
    ours = recipe.model_copy(update={"prompts": silent} if trained else {})
    relay = Relay(ours, planner, executor, task)
    found = RelayPipelines.of(relay, lora=lora)
    beside = _beside(replace(relay, recipe=recipe, sender=_load(settings.causal)), relay)
    still = {f"{name}{_BESIDE}": pipeline for name, pipeline in found.constants.items()}
    for label, planning in swept(recipe, settings).items():
        _join(found, _planned(relay, planning), label)
    found.pipelines |= beside
    found.constants |= still
    found.notes["planning"] = recipe.planning.model_dump()
    return Prepared(relay, asked(relay), found, perf_counter() - start)


def _planned(relay: Relay, planning: CanvasSettings) -> RelayPipelines:
    """The channels through which a plan goes, planned in another way."""
    recipe = relay.recipe
    through = ("text", recipe.projector.kind)
    names = tuple(name for name in recipe.compared.channels if name in through)
    comparison = recipe.compared.model_copy(update={"channels": names, "lora": None})
    changed = recipe.model_copy(update={"planning": planning, "comparison": comparison})
    return RelayPipelines.of(replace(relay, recipe=changed))


def _join(found: RelayPipelines, more: RelayPipelines, label: str) -> None:
    """Add pipelines by names that say how they differ."""
    found.pipelines |= {f"{name}, {label}": one for name, one in more.pipelines.items()}
    found.constants |= {f"{name}, {label}": one for name, one in more.constants.items()}


def _beside(other: Relay, relay: Relay) -> dict[str, Pipeline]:
    """The same channels with the causal planner and the same tuned reader of the executor.

    Free vectors have no sender, so one constant serves both planners.
    """
    recipe, folder = relay.recipe, trained_folder(relay.recipe)
    found: dict[str, Pipeline] = {}
    for name in recipe.compared.channels:
        if name == "text":
            found[f"text{_BESIDE}"] = other.text()
            if (soft := train_reader(relay, folder)) is not None:
                found[f"text{_BESIDE}, tuned reader"] = other.text(soft)
        elif name == recipe.projector.kind:
            projector, _ = train_projector(other, folder)
            found[f"{name}{_BESIDE}"] = trained_pipeline(other, projector)
    return found


def _load(source: ModelSource) -> LanguageModel:
    return load_model(source.model, dtype=source.dtype, device=source.device)


def _print_overlap(task: Task) -> None:
    shared = task.overlap
    PlainConsole(stderr=True).print(
        f"{task.name}: {len(task.train)} items to train on, {len(task.validation)} to validate, "
        f"{len(task.test)} to test; shared facts {dict(shared.facts)}, shared questions "
        f"{dict(shared.questions)}; {shared.dropped} items dropped for that"
    )
