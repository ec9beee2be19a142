"""Settings of earlier versions of recipes, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from unspoken.errors import RecipeError

__all__ = ["check_spelling"]

_A_STUDY = "is now a study: write kind: {} and studies: {}"
_KINDS = {
    "projector": "is now kind: relay without studies: write kind: relay and pair: {sender: "
    "{model: ...}, receiver: {model: ...}}",
    "rate": _A_STUDY.format("relay", "{rate: {lengths: ...}}"),
    "plan": _A_STUDY.format("relay", "{teams: {lengths: ..., terms: ...}}"),
    "telephone": _A_STUDY.format("relay", "{telephone: {hops: ...}}"),
    "planner_executor": _A_STUDY.format(
        "relay", "{comparison: {}, planner: {teaching: ..., causal: ...}}"
    ),
    "edges": _A_STUDY.format("pipeline", "{edges: {items: ..., budget: ...}}"),
    "reuse": _A_STUDY.format("pipeline", "{reuse: {ladders: ..., pool: ...}}"),
}
_COMPARED = ("channels", "reader", "constant", "lora", "transfer", "pack", "limit", "batch_size")
_KEYS: Mapping[str, Mapping[str, str]] = {
    "relay": {
        "sender": "pair.sender",
        "receiver": "pair.receiver",
        **{name: f"comparison.{name}" for name in _COMPARED},
        "worth": "studies.information, and worth.column to studies.comparison.bits",
        "lengths": "studies.rate.lengths or studies.teams.lengths",
        "packs": "studies.rate.packs",
        "sweep": "studies.rate.sweep or studies.planner.sweep",
        "team": "studies.teams.terms",
        "hops": "studies.telephone.hops",
        "planner": "studies.planner.teaching",
        "causal": "studies.planner.causal",
    },
    "pipeline": {
        **{name: f"studies.edges.{name}" for name in ("items", "budget", "graph")},
        **{name: f"studies.reuse.{name}" for name in ("ladders", "pool")},
    },
    "planner": {"planner": "teaching"},
}
_RENAMED = {
    "agents": ("lead", "instructions"),
    "prompts": ("note_lead", "note_instructions"),
    "projector": ("lead", "opening"),
}
"""Keys inside a part, or inside each part of a list."""


def check_spelling(content: Mapping[str, Any]) -> None:
    """Raise `RecipeError` for a kind or a key of an earlier version, and say where it went."""
    kind = str(content.get("kind"))
    if kind in _KINDS:
        raise RecipeError(f"kind: {kind} {_KINDS[kind]}")
    moved = _KEYS.get(kind, {})
    old = [f"{name}: moved to {moved[name]}" for name in content if name in moved]
    if old := [*old, *_renamed(content)]:
        raise RecipeError("; ".join(old))


def _renamed(content: Mapping[str, Any]) -> Iterator[str]:
    for name, (old, new) in _RENAMED.items():
        value: object = content.get(name)
        parts = cast(list[object], value) if isinstance(value, list) else [value]
        if any(isinstance(part, Mapping) and old in part for part in parts):
            yield f"{name}: {old} is now called {new}"
