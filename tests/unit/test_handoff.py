"""Handing over a cache without the sender's lead: the oracle that needs no training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Handoff
from unspoken.channels.sender_state import SenderState
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import FreeVectors
from unspoken.types import CacheSegment, Prompt, Text

pytestmark = pytest.mark.numbers

LEAD = "Keys lie in drawers. "
FACTS = ("The key is in the attic.", "Bo has it.")
FIELDS = {"context": FACTS, "question": ("Where?", "Who?")}
READS = Role(LEAD, "{context}", chat=False)
ASKS = Role(LEAD, "{messages}Q: {question}\nA:", chat=False)
BARE = Handoff(opening=False)


def thought_of(model: Backbone, role: Role = READS) -> SenderState:
    return Agent("reader", model, role=role).compute(FIELDS, needs=BARE.needs)[0]


def sent(state: SenderState, channel: Handoff = BARE) -> CacheSegment:
    payload = channel.send(state).payload
    assert isinstance(payload, CacheSegment)
    return payload


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_what_stands_behind_the_lead_is_moved_to_the_front(
    tiny: Callable[..., Backbone], kind: str
) -> None:
    model = tiny(kind)
    state = thought_of(model)
    assert state.cached is not None
    bare = sent(state)
    dropped = len(LEAD) + (kind == "gemma")  # its `<bos>`
    for row, fact in enumerate(FACTS):
        whole, kept = state.cached.rows(slice(row, row + 1)), bare.rows(slice(row, row + 1))
        assert kept.mask.shape == (1, len(fact))
        tail = tuple((k[:, :, dropped:], v[:, :, dropped:]) for k, v in whole.kv)
        moved = model.shift(tail, -dropped)
        for (keys, values), (k, v) in zip(kept.kv, moved, strict=True):
            torch.testing.assert_close(keys, k, atol=1e-5, rtol=1e-5)
            assert torch.equal(values, v)


def test_its_lowest_keys_are_those_of_the_words_alone(tiny: Callable[..., Backbone]) -> None:
    """Keys of the first layer know their word and their position, and nothing of the lead."""
    model = tiny("llama")
    alone = model.read(Prompt((Text(FACTS[:1]),)), needs=BARE.needs).cached
    assert alone is not None
    bare = sent(thought_of(model)).rows(slice(0, 1))
    torch.testing.assert_close(bare.kv[0][0], alone.kv[0][0], atol=1e-4, rtol=1e-4)
    apart = (bare.kv[-1][0] - alone.kv[-1][0]).norm() / alone.kv[-1][0].norm()
    assert apart > 0.1  # the upper ones have seen it


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_without_a_lead_it_is_the_plain_hand_over(tiny: Callable[..., Backbone], kind: str) -> None:
    state = thought_of(tiny(kind), Role(template="{context}", chat=False))
    assert BARE.send(state).to_bytes() == Handoff().send(state).to_bytes()


def test_the_receiver_reads_its_own_lead(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    read = {
        channel.opening: Pipeline(
            [Agent("reader", model, role=READS), Agent("solver", model, role=ASKS)],
            [Edge("reader", "solver", channel)],
        ).run({"context": FACTS[0], "question": "Where?"})
        for channel in (Handoff(), BARE)
    }
    asked = len("Q: Where?\nA:")
    assert read[True].turns[1].usage.read == asked
    assert read[False].turns[1].usage.read == asked + len(LEAD)


def test_vectors_behind_the_lead_are_kept(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    soft = FreeVectors(count=3, width=model.spec.width)
    reader = Agent("reader", model, role=READS, soft=soft)
    bare = sent(reader.compute(FIELDS, needs=BARE.needs)[0])
    assert bare.mask.sum(1).tolist() == [3 + len(fact) for fact in FACTS]


def test_a_memory_in_front_of_the_lead_goes_with_it(tiny: Callable[..., Backbone]) -> None:
    model = tiny("llama")
    first = Handoff().send(thought_of(model, Role(template="{context}", chat=False)))
    middle = Agent("middle", model, role=Role(LEAD, "{question}", chat=False))
    heard = [Incoming(Handoff(), first)]
    bare = sent(middle.compute(FIELDS, heard, needs=BARE.needs)[0])
    assert bare.mask.sum(1).tolist() == [len("Where?"), len("Who?")]


def test_a_lead_that_cannot_be_found_is_refused(tiny: Callable[..., Backbone]) -> None:
    """The middle did not read its lead: it came with the hand-over, of which no words are known."""
    model = tiny("llama")
    first = Incoming(Handoff(), Handoff().send(thought_of(model)))
    middle = Agent("middle", model, role=Role(LEAD, "{question}", chat=False))
    state = middle.compute(FIELDS, [first], needs=BARE.needs)[0]
    with pytest.raises(
        IncompatibleModels, match=r"where the opening of sender 'middle' ends.*use Han"
    ):
        BARE.send(state)


def test_a_model_without_rotation_is_refused(tiny: Callable[..., Backbone]) -> None:
    with pytest.raises(IncompatibleModels, match="cannot be moved to another position"):
        BARE.send(thought_of(tiny("gpt2")))
