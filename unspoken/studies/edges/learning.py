"""A sparse graph over latent edges, learned or loaded from where it was learned before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from unspoken.errors import DataError, TrainingError
from unspoken.evaluation.expected import expected_answer
from unspoken.evaluation.identity import identity
from unspoken.evaluation.items import query
from unspoken.files import atomic_folder
from unspoken.identity import digest
from unspoken.pipeline import Pipeline
from unspoken.protocols import tabled
from unspoken.recipe.config import PipelineRecipe
from unspoken.relay.saving import checkpoints, drop_checkpoints
from unspoken.studies.edges.former import former_identity
from unspoken.studies.edges.settings import GraphSettings
from unspoken.tasks import Item, Task
from unspoken.training import EdgeGates, GraphAnswers, History, fit
from unspoken.training.graph import frozen_channels, gateable, gates_for

__all__ = ["learn_graph"]


def learn_graph(
    recipe: PipelineRecipe, settings: GraphSettings, pipeline: Pipeline, task: Task
) -> tuple[tuple[int, ...], EdgeGates]:
    """The edges that have a gate, by number, and the gates; trained, or those that are in `out`.

    Raises `DataError` and `TrainingError`, the latter also if frozen weights changed.
    """
    few = task.validation[: settings.validation]
    if not few:
        raise DataError("validation items choose the graph; set task.validation above 0")
    items, learned = [*task.train, *few], gateable(pipeline)
    gates = gates_for(
        pipeline,
        learned,
        senders=settings.senders,
        temperature=settings.temperature,
        seed=recipe.seed,
    )
    answers = [expected_answer(pipeline.answerer, item) for item in items]
    home = _home(recipe, settings, pipeline, items, [answers, learned])
    if not (home / "config.json").exists():
        queries = [query(item) for item in items]
        objective = GraphAnswers(pipeline, gates, learned, queries, answers, validation=len(few))
        before = _digests(pipeline)
        plan = settings.training.plan(recipe.seed)
        checkpoint = checkpoints(home) / "graph.pt"
        with frozen_channels(pipeline):
            history = fit(gates, objective, plan, checkpoint, title="graph")
        if _digests(pipeline) != before:
            raise TrainingError("learning a graph changed the frozen weights of a model")
        _save(gates, home, history)
    drop_checkpoints(home)
    return learned, EdgeGates.from_pretrained(home).eval()


def _home(
    recipe: PipelineRecipe,
    settings: GraphSettings,
    pipeline: Pipeline,
    items: Sequence[Item],
    more: Sequence[Any],
) -> Path:
    """The folder of what was learned, which may be the one that version 0.1 made."""
    inputs = [[item.to_dict() for item in items], *more, settings.model_dump(), recipe.seed]
    made, former = (
        recipe.out / "trained" / f"graph-{digest([known, *inputs])[:12]}"
        for known in (identity(pipeline), former_identity(pipeline))
    )
    return former if former.exists() and not made.exists() else made


def _digests(pipeline: Pipeline) -> list[str]:
    models = {id(agent.model): agent.model for agent in pipeline.agents.values()}
    return [tabled(model, "a graph is learned over").digest() for model in models.values()]


def _save(gates: EdgeGates, home: Path, history: History) -> None:
    state = PartialState()  # under torchrun every process has trained; one of them writes
    if state.is_main_process:
        with atomic_folder(home) as beside:
            gates.save_pretrained(beside)
            (beside / "history.json").write_text(json.dumps(asdict(history)))
    state.wait_for_everyone()
