"""Folders of trained weights are found again: what a key is made of does not change.

The keys are those of commit 4ba0381. A key that changes makes everybody train anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unspoken.agents import Agent, Role
from unspoken.channels import Handoff
from unspoken.pipeline import Edge, Pipeline
from unspoken.recipe.parts import FreeSettings, LoraSettings
from unspoken.relay import train
from unspoken.relay.relay import Relay
from unspoken.studies.edges.former import former_identity
from unspoken.tasks import Item, Overlap, Task
from unspoken.testing import tiny_backbone

from ..pairs import recipe_of

KEYS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "embedding"}, "f68fe7bc55ed"),
    (
        {"kind": "embedding", "layers": [0, 2], "hidden": 64, "vectors": 4, "prompt": 2},
        "490a0881c640",
    ),
    ({"kind": "memory"}, "0da535da393a"),
    (
        {
            "kind": "memory",
            "width": 64,
            "hidden": 16,
            "prompt": 2,
            "words": True,
            "texts": 20,
            "calibration": "both",
        },
        "f9c4cf23e432",
    ),
    ({"kind": "fusion"}, "d93e0da8f38f"),
    (
        {
            "kind": "fusion",
            "map": "last_aligned",
            "above": 1,
            "rank": 4,
            "gate": 0.5,
            "opening": True,
        },
        "33e3f5d4e890",
    ),
    ({"kind": "ridge"}, "ef3f41d44bab"),
    (
        {"kind": "procrustes", "layers": [2], "texts": 9, "calibration": "text", "penalty": 0.1},
        "80a1e0ccd155",
    ),
    ({"kind": "mixing"}, "a30d15c64356"),
    ({"kind": "mixing", "temperature": 0.5}, "cb5d2e9720e5"),
]


def items(split: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            f"{split}-{n}",
            f"{split} {n} likes tea {n}.",
            f"What does {split} {n} like?",
            (f"tea {n}",),
        )
        for n in range(count)
    )


def relay(projector: dict[str, Any], states: str = "read", **more: Any) -> Relay:
    """Two models of which nothing but their identity is asked."""
    steps = 0 if projector["kind"] == "mixing" else 4
    recipe = recipe_of(
        projector,
        Path("out"),
        prompts={"instruction": "Answer.", "shots": 2},
        warmup={"steps": 3, "lr": 0.01},
        training={"steps": steps, "lr": 0.001},
        validation=2,
        **more,
    )
    splits = items("train", 6), items("held", 3), items("test", 2)
    sender, receiver = (
        cast(
            Any,
            SimpleNamespace(
                spec=SimpleNamespace(states=states, weights=side * 16, dtype="float32")
            ),
        )
        for side in "ab"
    )
    return Relay(recipe, sender, receiver, Task("mine", *splits, {}, Overlap({}, {}, 0)))


def key(relay: Relay, *more: Any) -> str:
    return train._key(relay, relay.recipe.projector, relay.recipe.warmup, *more)


@pytest.mark.parametrize(("projector", "expected"), KEYS, ids=lambda value: str(value)[:40])
def test_the_key_of_a_projector(projector: dict[str, Any], expected: str):
    assert key(relay(projector)) == expected


def test_the_keys_of_a_planner_and_of_a_part_of_the_items():
    planned = relay({"kind": "embedding"}, states="written")
    assert key(planned, planned.recipe.planning) == "50d8b4ac969b"
    assert key(relay({"kind": "embedding"}, seed=1, items=4)) == "faddd75d4f60"


def test_the_keys_of_controls():
    pair = relay({"kind": "embedding"})
    assert train._key(pair, FreeSettings(vectors=2, lr=0.01), "reader") == "20b67d738fcd"
    assert train._key(pair, LoraSettings(lr=0.01), "500") == "f5a5368067bc"


def test_what_the_key_of_a_graph_says_of_agents_and_edges():
    model = tiny_backbone()
    reader = Agent("reader", model, role=Role("Say.", "{context}"))
    solver = Agent("solver", model, role=Role("Do.", first="item"))
    found = former_identity(Pipeline([reader, solver], [Edge("reader", "solver", Handoff())]))
    _, _, agents, edges = found
    shared = {"message": "{sender}:{message}\n\n", "chat": True}
    more = {"reuse": "any", "candidates": ()}
    said = [
        {"lead": "Say.", "template": "{context}", **shared, "first": "lead", **more},
        {"lead": "Do.", "template": "{messages}{question}", **shared, "first": "item", **more},
    ]
    assert json.dumps([agent[2] for agent in agents]) == json.dumps(said)  # their order counts
    assert edges == [("reader", "solver", "handoff", {"lead": "True"})]
