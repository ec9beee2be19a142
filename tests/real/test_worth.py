"""The instrument of usable bits on a real model: what must reach the ceiling, and what must not."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Constant, Handoff, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.evaluation.altered import Noise
from unspoken.evaluation.scores import Scores, measure
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import FreeVectors
from unspoken.types import Vectors, left_pad
from unspoken.wire import Message

pytestmark = pytest.mark.real

CITIES = ("Lisbon", "Oslo", "Cairo", "Lima", "Delhi", "Rome", "Tokyo", "Boston")
QUERIES = [
    {"context": f"Parcel {n + 11} was sent to {city}.", "question": f"Where is parcel {n + 11}?"}
    for n, city in enumerate(CITIES)
]
LEAD = "Fact: The dog is in Paris.\nQuestion: Where is the dog?\nAnswer: Paris\n\n"


def measured(model: Backbone, channel: Channel) -> Scores:
    front = channel.in_front
    tail = "\nQuestion: {question}\nAnswer:"
    reads = Role(LEAD if front else "", "Fact: {context}" if front else " {context}", chat=False)
    solves = Role(LEAD, tail if front else f"Fact:{{messages}}{tail}", "{message}", chat=False)
    agents = [Agent("sender", model, role=reads), Agent("receiver", model, role=solves)]
    pipeline = Pipeline(agents, [Edge("sender", "receiver", channel)])
    shifted = [(n + 1) % len(CITIES) for n in range(len(CITIES))]
    return measure(pipeline, QUERIES, [f" {city}\n" for city in CITIES], shifted)


@pytest.fixture(scope="module")
def model() -> Backbone:
    return Backbone.from_pretrained("smollm2-135m-instruct", dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def words(model: Backbone) -> Scores:
    return measured(model, TextChannel(verbatim=True))


def test_easy_facts_reach_the_ceiling_and_wrong_ones_mislead(words: Scores) -> None:
    assert words.ceiling == 3
    assert fmean(words.bits) > 2.95
    assert words.identified == (1.0,) * 8
    assert min(words.pvi) > 0
    assert fmean(words.deranged) < 0


def test_a_handed_cache_is_worth_what_the_words_are(model: Backbone, words: Scores) -> None:
    cache = measured(model, Handoff())
    assert cache.bits == pytest.approx(words.bits, abs=0.05)
    assert cache.deranged == pytest.approx(words.deranged, abs=0.05)
    assert min(cache.wire) > 1000 * max(words.wire)


def test_one_message_for_everybody_is_worth_nothing(model: Backbone) -> None:
    free = FreeVectors(count=8, width=model.spec.width, scale=0.1)
    assert measured(model, Constant(free)).bits == (0.0,) * 8


class Embedded(Constant):
    """The receiver's own embeddings of the words: as good as the words."""

    def __init__(self, model: Backbone) -> None:
        super().__init__(FreeVectors(count=1, width=model.spec.width))
        self.model = model

    def send(self, state: SenderState) -> Message:
        rows = [torch.tensor(self.model.tokens(f" {words}")) for words in state.given]
        ids, mask = left_pad(rows)
        return self._message(state, Vectors(self.model.embed(ids), mask))


def test_vectors_count_as_words_do_and_their_noise_for_nothing(
    model: Backbone, words: Scores
) -> None:
    embedded = measured(model, Embedded(model))
    assert embedded.bits == pytest.approx(words.bits, abs=0.05)
    assert fmean(measured(model, Noise(Embedded(model))).bits) < 0.1
