"""What is too long for a hand-over is refused before anything is read, and what fits is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.zoo.plain import Plain
from unspoken import Agent, Edge, Pipeline, Role, Settings
from unspoken.agents import Incoming
from unspoken.backbone import Backbone
from unspoken.channels import Channel, Fusion, Handoff, LatentRollout, SelectiveLayers
from unspoken.errors import ContextTooLong, IncompatibleModels
from unspoken.projectors import Fuser
from unspoken.seeding import seeded
from unspoken.testing import _tokenizer, tiny_backbone
from unspoken.wire import Message

BORDER, TOKENS, STEPS = 64, 4, 3
ROTATIONS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": BORDER,
        "short_factor": [1.0, 1.1, 1.3, 1.5],
        "long_factor": [1.0, 2.0, 4.0, 6.0],
    },
}
ASKED = "So where?"
LONG = "Ada keeps the green key in a drawer by the window, and Bob has a copy of it at home too."


@pytest.fixture(scope="module", params=ROTATIONS)
def turning(request: pytest.FixtureRequest) -> Backbone:
    """A model whose keys turn otherwise beyond 64 positions."""
    config = deepcopy(tiny_backbone("llama").model.config)
    config.head_dim = 8
    config.max_position_embeddings = BORDER if request.param == "dynamic" else 256
    config.rope_parameters = {"rope_theta": 10_000.0, **ROTATIONS[request.param]}
    with seeded(0):
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    found = Backbone(model, _tokenizer(bos=False))
    assert found.border == BORDER
    return found


def ids(model: Backbone, words: str) -> list[int]:
    return model.tokens(words)


def words_of(model: Backbone, count: int, words: str = LONG) -> str:
    """The first `count` tokens of words."""
    found = model.shorten(words, count)
    assert len(ids(model, found)) == count
    return found


def pipeline(model: Backbone, channel: Channel, **more: Any) -> Pipeline:
    settings = Settings(max_tokens=TOKENS)
    scribe = Agent("scribe", model, role=Role(template="{context}", chat=False))
    role = Role(template="{messages}{question}", message="{message}", chat=False)
    reader = Agent("reader", model, role=role, settings=settings)
    return Pipeline([scribe, reader], [Edge("scribe", "reader", channel)], **more)


def item(model: Backbone, count: int) -> dict[str, str]:
    return {"context": words_of(model, count), "question": ASKED}


@contextmanager
def unread(model: Backbone) -> Iterator[None]:
    """Within it no pass over the model may happen."""

    def refuse(*given: Any) -> None:
        pytest.fail("something was read")

    handle = model.body.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


def room(model: Backbone, channel: Channel) -> int:
    """How many tokens a context may have so that the answer ends at the border."""
    steps = STEPS if isinstance(channel, LatentRollout) else 0
    return BORDER - TOKENS - steps - len(ids(model, ASKED))


def greedy(plain: Plain, fed: torch.Tensor, count: int) -> list[int]:
    """What plain passes over embeddings find most likely, one after another."""
    found: list[int] = []
    for _ in range(count):
        found.append(int(plain.logits_of(fed)[-1].argmax()))
        if found[-1] in plain.ends:
            break
        fed = torch.cat((fed, plain.embed(found[-1:])))
    return found


CHANNELS = {"handoff": Handoff, "rollout": lambda: LatentRollout(steps=STEPS, align="identity")}


@pytest.mark.parametrize("kind", CHANNELS)
def test_up_to_the_border_a_hand_over_is_right_and_beyond_it_nothing_is_read(
    turning: Backbone, kind: str
):
    channel, plain = CHANNELS[kind](), Plain(deepcopy(turning.model))
    line, most = pipeline(turning, channel), room(turning, channel)
    for count in (most - 1, most):
        given = item(turning, count)
        fed = plain.fed_back(ids(turning, given["context"]), STEPS * (kind == "rollout"))
        fed = torch.cat((fed, plain.embed(ids(turning, ASKED))))
        assert len(fed) + TOKENS == BORDER - (most - count)
        want = turning.tokenizer.decode(greedy(plain, fed, TOKENS), skip_special_tokens=True)
        assert line.run(given).answer == want.strip()
    for count in (most + 1, most + TOKENS + 1):
        with unread(turning), pytest.raises(ContextTooLong, match="use the channel 'text'"):
            line.run(item(turning, count))


def test_a_long_item_among_others_is_refused_before_the_others_are_read(turning: Backbone):
    line, most = pipeline(turning, Handoff()), room(turning, Handoff())
    items = [item(turning, count) for count in (5, 9, most + 1)]
    with unread(turning), pytest.raises(ContextTooLong):
        line.run_many(items, batch_size=1)
    with unread(turning), pytest.raises(ContextTooLong):
        line.run_many(items[:2] * 2, elsewhere=[*items, items[0]])
    assert len(line.run_many(items[:2])) == 2


def test_what_an_answer_would_take_counts_only_where_one_is_written(turning: Backbone):
    line, most = pipeline(turning, Handoff()), room(turning, Handoff())
    (found,) = line.incoming([item(turning, most + TOKENS)])
    assert found.message.batch == 1
    with unread(turning), pytest.raises(ContextTooLong):
        line.incoming([item(turning, most + TOKENS + 1)])


def test_a_rollout_that_alone_crosses_the_border_is_not_begun(turning: Backbone):
    line = pipeline(turning, LatentRollout(steps=BORDER))
    with unread(turning), pytest.raises(ContextTooLong):
        line.run(item(turning, 3))


def test_bytes_that_are_given_to_an_agent_are_refused_before_it_reads(turning: Backbone):
    line, most = pipeline(turning, Handoff()), room(turning, Handoff())
    (found,) = line.incoming([item(turning, most + TOKENS)])
    loaded = Message.from_bytes(found.message.to_bytes())
    with unread(turning), pytest.raises(ContextTooLong):
        line.answerer.read({"question": (f"{ASKED} Tell!",)}, [Incoming(Handoff(), loaded)])


def test_agents_between_hand_on_what_they_were_handed(turning: Backbone):
    role = Role(template="{messages}{question}", chat=False)
    agents = [Agent(name, turning, role=role, settings=Settings(TOKENS)) for name in "abc"]
    edges = [Edge("a", "b", Handoff()), Edge("b", "c", Handoff())]
    line = Pipeline(agents, edges)
    third = (BORDER - TOKENS) // 3
    plain = Plain(deepcopy(turning.model))
    asked = words_of(turning, third)
    want = plain.generate(ids(turning, asked) * 3, TOKENS)
    decoded = turning.tokenizer.decode(want, skip_special_tokens=True)
    assert line.run(asked).answer == decoded.strip()
    with unread(turning), pytest.raises(ContextTooLong):
        line.run(words_of(turning, third + 1))


@pytest.mark.parametrize(
    "channel",
    [Handoff(), Handoff(opening=False), LatentRollout(steps=STEPS), SelectiveLayers(ratio=0.5)],
    ids=repr,
)
def test_more_positions_than_a_model_has_are_refused_before_anything_is_read(channel: Channel):
    model = tiny_backbone("llama")
    line, limit = pipeline(model, channel), model.spec.positions
    assert limit is not None
    asked = line.answerer.model.tokens(ASKED)
    steps = STEPS if isinstance(channel, LatentRollout) else 0
    most = limit - TOKENS - steps - len(asked)
    words = words_of(model, most, "ab " * limit)
    assert line.run({"context": words, "question": ASKED}).turns[-1].usage.written
    longer = words_of(model, most + 1, "ab " * limit)
    with unread(model), pytest.raises(ContextTooLong, match="Shorten the prompt"):
        line.run({"context": longer, "question": ASKED})


def test_a_fuser_is_refused_whose_receiver_remembers_words_as_tokens(turning: Backbone):
    fuser = Fuser(
        source_heads=2, source_dim=8, target_heads=2, target_dim=8, layers=[(2, 2)], hidden=8
    )
    with unread(turning), pytest.raises(IncompatibleModels, match="turn by the length of all"):
        pipeline(turning, Fusion(fuser))
