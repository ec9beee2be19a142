"""A pair of tiny models on a task of a few lines, for tests of what is trained between two."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from unspoken.recipe import ProjectorRecipe
from unspoken.relay.relay import Relay
from unspoken.tasks import Item, Overlap, Protocol, Task
from unspoken.testing import tiny_backbone

__all__ = ["QUERY", "overrides_of", "recipe_of", "relay_of", "task_of"]

QUERY = {"context": "somebody likes tea 3.", "question": "What does somebody like?"}


def task_of(protocol: Protocol = "private") -> Task:
    """Twelve facts to train on, four to validate, three to test."""
    splits = [_items(name, n) for name, n in (("train", 12), ("held", 4), ("test", 3))]
    return Task("mine", *splits, {}, Overlap({}, {}, 0), protocol)


def _items(split: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            f"{split}-{n}",
            f"{split} {n} likes {'tea' if n % 2 else 'milk'} {n}.",
            f"What does {split} {n} like?",
            (f"{'tea' if n % 2 else 'milk'} {n}",),
        )
        for n in range(count)
    )


def recipe_of(projector: dict[str, Any], out: Path, **more: Any) -> ProjectorRecipe:
    """A recipe with a few short steps."""
    stage = {"steps": 4, "batch_size": 4, "warmup": 1, "every": 2}
    return ProjectorRecipe.model_validate(
        {
            "kind": "projector",
            "sender": {"model": "sender"},
            "receiver": {"model": "receiver"},
            "task": {"name": "people"},
            "prompts": {
                "instruction": "Answer.",
                "shots": 1,
                "note_tokens": 4,
                "answer_tokens": 4,
            },
            "projector": projector,
            "warmup": {**stage, "lr": 5e-3},
            "training": {**stage, "lr": 1e-3},
            "validation": 4,
            "out": out,
            **more,
        }
    )


def relay_of(
    projector: dict[str, Any], out: Path, protocol: Protocol = "private", **more: Any
) -> Relay:
    """The pair by a recipe; models with different widths, windows and beginnings."""
    recipe = recipe_of(projector, out, **more)
    sender, receiver = tiny_backbone("gemma", width=24), tiny_backbone("llama")
    return Relay(recipe, sender, receiver, task_of(protocol))


def overrides_of(folder: Path) -> list[str]:
    """The same pair and task as files in `folder`, as overrides of the recipe `relay`."""
    models = {"sender": tiny_backbone("gemma", width=24), "receiver": tiny_backbone("llama")}
    for name, backbone in models.items():
        cast(Any, backbone.model).save_pretrained(folder / name)
        backbone.tokenizer.save_pretrained(folder / name)
    task = task_of()
    for name, items in {"train": (*task.train, *task.validation), "test": task.test}.items():
        lines = (json.dumps(asdict(item)) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return [
        *(f"{name}.model={folder / name}" for name in models),
        f"task.train={folder / 'train.jsonl'}",
        f"task.test={folder / 'test.jsonl'}",
        "task.validation=4",
        "validation=4",
        "prompts={instruction: Answer., shots: 1, note_lead: '', note_tokens: 4, answer_tokens: 4}",
        "warmup={steps: 4, batch_size: 4, warmup: 1, every: 2}",
        "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
        "reader.vectors=2",
        "constant.vectors=3",
        "limit=3",
        f"out={folder / 'out'}",
    ]
