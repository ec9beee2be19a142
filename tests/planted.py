"""Tiny pipelines in which it is known who knows: four facts, four answers, one projector.

The receiver is random and frozen. The projector is trained in the pipeline, for a second or two,
until the receiver gives each answer after hearing from a sender who has read the fact.
"""

from __future__ import annotations

from pathlib import Path

import torch

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Embedding, TextChannel
from unspoken.pipeline import Edge, Pipeline, Query
from unspoken.projectors import EmbeddingProjector
from unspoken.tasks import Item
from unspoken.training import EdgeGates, GraphAnswers, TrainingPlan, fit
from unspoken.types import Settings

__all__ = [
    "ANSWERS",
    "ASKS",
    "FACTS",
    "ITEMS",
    "QUERIES",
    "READS",
    "SAID",
    "fresh",
    "pair",
    "solver",
    "star",
    "train",
]

FACTS = ("the cat is red", "the dog is blue", "a hen is green", "the ox is grey")
SAID = ["1", "2", "3", "4"]
QUERIES: list[Query] = [{"context": fact, "question": "which?"} for fact in FACTS]
ITEMS = [Item(f"i{n}", FACTS[n], "which?", (SAID[n],)) for n in range(4)]
READS = Role(template="{context}", chat=False)
ASKS = Role(template="{question}", chat=False)
ANSWERS = Role("Say.\n", "{messages}{question}", message="{message}", chat=False)


def solver(model: Backbone) -> Agent:
    return Agent("solver", model, role=ANSWERS, settings=Settings(max_tokens=1))


def star(model: Backbone, projector: EmbeddingProjector) -> Pipeline:
    """One who knows, over vectors; and one who repeats to everybody what all are asked."""
    knower, crier = Agent("knower", model, role=READS), Agent("crier", model, role=ASKS)
    words = TextChannel(verbatim=True)
    edges = [Edge("knower", "solver", Embedding(projector)), Edge("crier", "solver", words)]
    return Pipeline([knower, crier, solver(model)], edges)


def pair(model: Backbone, projector: EmbeddingProjector) -> Pipeline:
    """One who knows, and nobody else."""
    whole = star(model, projector)
    return whole.with_edges(whole.edges[:1])


def train(line: Pipeline, folder: Path) -> EmbeddingProjector:
    """Train the projector of the first edge in the pipeline; all else is frozen."""
    channel = line.edges[0].channel
    assert isinstance(channel, Embedding)
    projector = channel.projector
    assert isinstance(projector, EmbeddingProjector)
    objective = GraphAnswers(line, EdgeGates(receivers=[]), (), QUERIES * 2, SAID * 2, validation=4)
    plan = TrainingPlan(steps=120, batch_size=4, lr=2e-2, warmup=5, every=30, bf16=False)
    assert fit(projector, objective, plan, folder / "planted.pt", title="planted").best < 0.6
    projector.zero_grad()
    return projector.eval()


def fresh() -> EmbeddingProjector:
    torch.manual_seed(0)
    return EmbeddingProjector(
        source_width=32, target_width=32, layers=[1], hidden=32, vectors=4, scale=1.0
    )
