"""Matching: a receiver that gets a message learns from the one that has read the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Constant, Embedding, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.pipeline import fields_of
from unspoken.projectors import EmbeddingProjector, FreeVectors
from unspoken.training import Matching, TrainingPlan, fit
from unspoken.types import Need

QUERIES = [
    {"context": f"Ada {n} keeps a {pet} at home."}
    for n, pet in enumerate(("cat", "owl", "yak", "dog"))
]
AFTER = [(f"Question: which pet?\nAnswer: {n}\n\n", f"Fact: Ada {n} again") for n in range(4)]
ROLE = Role("Say where.\n\n", "Fact:{messages}\n", message="{message}", chat=False)


@pytest.fixture
def receiver(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("llama")


@pytest.fixture
def states(tiny: Callable[..., Backbone]) -> Callable[[Sequence[int]], SenderState]:
    sender = Agent("sender", tiny("gemma", width=24), role=Role(template=" {context}", chat=False))

    def compute(rows: Sequence[int]) -> SenderState:
        with torch.no_grad():
            needs = frozenset({Need("hidden", layer=0)})
            return sender.compute(fields_of([QUERIES[row] for row in rows]), needs=needs)[0]

    return compute


def log_p(model: Backbone, before: Tensor, ids: list[int]) -> Tensor:
    """What plain transformers expects of each of `ids` after embeddings (1, S, W)."""
    whole = torch.cat((before, model.embed(torch.tensor([ids]))), 1)
    logits = model.model(inputs_embeds=whole).logits[0, before.shape[1] - 1 : -1]
    return logits.float().log_softmax(-1)


def test_the_divergence_is_that_of_plain_transformers(
    receiver: Backbone, states: Callable[[Sequence[int]], SenderState]
) -> None:
    vectors = FreeVectors(count=3, width=receiver.spec.width, target_weights=receiver.spec.weights)
    vectors.start_from(
        torch.randn(3, receiver.spec.width, generator=torch.Generator().manual_seed(0))
    )
    agent = Agent("receiver", receiver, role=ROLE)
    matching = Matching(agent, Constant(vectors), states, QUERIES, AFTER, validation=1, most=9)
    rows, step = [0, 2, 1], 1
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = receiver.tokens(AFTER[row][(row + step) % 2])[:9]
        opening = receiver.tokens(ROLE.instructions)
        read = [*opening, *receiver.tokens(f"Fact: {QUERIES[row]['context']}\n")]
        wanted = log_p(receiver, receiver.embed(torch.tensor([read])), ids)
        front = receiver.embed(torch.tensor([[*opening, *receiver.tokens("Fact:")]]))
        end = receiver.embed(torch.tensor([receiver.tokens("\n")]))
        found = log_p(receiver, torch.cat((front, vectors(1).values, end), 1), ids)
        total = total + (wanted.exp() * (wanted - found)).sum()
        count += len(ids)
    torch.testing.assert_close(matching.loss(rows, step), total / count, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(matching.loss(rows, 0), total / count)  # other continuations


def test_words_diverge_by_nothing_from_themselves_and_by_much_from_others(
    receiver: Backbone, states: Callable[[Sequence[int]], SenderState]
) -> None:
    agent = Agent("receiver", receiver, role=ROLE)
    same, cut = (
        Matching(
            agent, TextChannel(verbatim=True, limit=limit), states, QUERIES, AFTER, validation=2
        )
        for limit in (None, 2)
    )
    assert abs(same.validate()) < 1e-6
    assert cut.validate() > 1e-4


def test_training_brings_them_together_and_moves_neither_model(
    receiver: Backbone, states: Callable[[Sequence[int]], SenderState], tmp_path: Path
) -> None:
    projector = EmbeddingProjector(
        source_width=24, target_width=receiver.spec.width, hidden=16, layers=(0,), prompt=2
    )
    projector.target_weights, projector.target_tokenizer = (
        receiver.spec.weights,
        receiver.spec.tokenizer,
    )
    agent, before = Agent("receiver", receiver, role=ROLE), receiver.digest()
    matching = Matching(agent, Embedding(projector), states, QUERIES, AFTER, validation=1)
    plan = TrainingPlan(steps=12, batch_size=3, lr=3e-2, warmup=1, every=4, bf16=False)
    history = fit(projector, matching, plan, tmp_path / "matching.pt", title="matching")
    assert history.train[-1][1] < history.train[0][1]
    assert receiver.digest() == before
