"""Recipes of planners on tiny models, for the tests of this study and of others with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from unspoken.backbone import Backbone
from unspoken.recipe import load_recipe
from unspoken.studies.planner import (
    PlannerExecutorRecipe,
    PlannerRecipe,
)

__all__ = ["planner_recipe", "whole", "written"]


def items(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{n}",
            "context": f"{split[:2]}{n} has {'tea' if n % 2 else 'milk'} {n}.",
            "question": f"What has {split[:2]}{n}?",
            "answers": [f"{'tea' if n % 2 else 'milk'} {n}"],
        }
        for n in range(count)
    ]


def written(tmp_path: Path, model: Backbone) -> list[str]:
    """A tiny causal model for all three parts, and a task, as a recipe's overrides."""
    cast(Any, model.model).save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    for split, count in {"train": 24, "test": 6}.items():
        lines = (json.dumps(item) + "\n" for item in items(split, count))
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return [
        f"sender.model={tmp_path / 'model'}",
        f"task.train={tmp_path / 'train.jsonl'}",
        f"task.test={tmp_path / 'test.jsonl'}",
        "task.validation=4",
        "planner={mask: <turn>, canvas: [8, 24], validation: 4}",
        "planner.training={steps: 4, batch_size: 4, lr: 1.0e-3, warmup: 1, every: 2, bf16: false}",
        f"out={tmp_path / 'out'}",
    ]


def whole(settings: Sequence[str], tmp_path: Path, *more: str) -> PlannerExecutorRecipe:
    recipe = load_recipe(
        "planner_executor",
        [
            *settings,
            f"receiver.model={tmp_path / 'model'}",
            f"causal.model={tmp_path / 'model'}",
            "validation=4",
            "planning={tokens: 12, steps: 4, block: 6}",
            "prompts={instruction: Answer., shots: 1, note_lead: 'N. ', note_tokens: 4}",
            "projector.hidden=16",
            "projector.prompt=2",
            "warmup.steps=0",  # a random planner writes no words
            "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "reader.vectors=2",
            "constant.vectors=3",
            "limit=5",
            *more,
        ],
    )
    assert isinstance(recipe, PlannerExecutorRecipe)
    return recipe


def planner_recipe(settings: Sequence[str], *more: str) -> PlannerRecipe:
    recipe = load_recipe("planner", [*settings, *more])
    assert isinstance(recipe, PlannerRecipe)
    return recipe
