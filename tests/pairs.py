"""A pair of tiny models on a task of a few lines, for tests of what is trained between two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unspoken.recipe import RelayRecipe
from unspoken.relay.relay import Relay
from unspoken.tasks import Item, Overlap, Protocol, Task
from unspoken.testing import tiny_backbone

__all__ = ["QUERY", "recipe_of", "relay_of", "task_of"]

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


def recipe_of(projector: dict[str, Any], out: Path, **more: Any) -> RelayRecipe:
    """A recipe with a few short steps."""
    stage = {"steps": 4, "batch_size": 4, "warmup": 1, "every": 2}
    return RelayRecipe.model_validate(
        {
            "kind": "relay",
            "pair": {"sender": {"model": "sender"}, "receiver": {"model": "receiver"}},
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
