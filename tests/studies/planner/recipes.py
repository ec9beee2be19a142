"""Recipes of planners on tiny models, for the tests of this study and of others with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from unspoken.backbone import Backbone
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.studies.planner import PlannerRecipe

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
    """A tiny causal model for all parts, and a task, as overrides of the recipe `planner`."""
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
        "teaching={mask: <turn>, canvas: [8, 24], validation: 4}",
        "teaching.training={steps: 4, batch_size: 4, lr: 1.0e-3, warmup: 1, every: 2, bf16: false}",
        f"out={tmp_path / 'out'}",
    ]


def _within_a_relay(setting: str) -> str:
    """A setting of a planner's own recipe, as a recipe says it that has an executor too."""
    places = {"sender": "pair.sender", "teaching": "studies.planner.teaching"}
    key = re.split("[.=]", setting)[0]
    return places.get(key, key) + setting.removeprefix(key)


def whole(settings: Sequence[str], tmp_path: Path, *more: str) -> RelayRecipe:
    recipe = load_recipe(
        "planner_executor",
        [
            *map(_within_a_relay, settings),
            f"pair.receiver.model={tmp_path / 'model'}",
            f"studies.planner.causal.model={tmp_path / 'model'}",
            "validation=4",
            "planning={tokens: 12, steps: 4, block: 6}",
            "prompts={instruction: Answer., shots: 1, note_instructions: 'N. ', note_tokens: 4}",
            "projector.hidden=16",
            "projector.prompt=2",
            "warmup.steps=0",  # a random planner writes no words
            "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "comparison.reader.vectors=2",
            "comparison.constant.vectors=3",
            "comparison.limit=5",
            *more,
        ],
    )
    assert isinstance(recipe, RelayRecipe)
    return recipe


def planner_recipe(settings: Sequence[str], *more: str) -> PlannerRecipe:
    recipe = load_recipe("planner", [*settings, *more])
    assert isinstance(recipe, PlannerRecipe)
    return recipe
