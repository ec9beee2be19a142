"""Soft words: expected embeddings in the place of words, and where they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import SoftWords, make_channel
from unspoken.errors import IncompatibleModels
from unspoken.projectors import VocabularyMixing
from unspoken.projectors.alignment import shared_vocabulary
from unspoken.types import TEXT, Context, Need, Prompt, Rollout, Settings, Text, Vectors

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

TEXTS = tuple(f"{'key ' * (n % 5)}number {n * n}" for n in range(16))
COLD = Need("rollout", limit=6, feed="expected", temperature=1e-4)


def read(model: Backbone, *texts: str) -> Context:
    return model.read(Prompt((Text(texts),))).context


def words(model: Backbone, rollout: Rollout) -> list[list[int]]:
    """The token whose embedding is nearest to each vector."""
    nearest = torch.cdist(rollout.vectors.values, model.table[None]).argmin(-1)
    return [row[mask].tolist() for row, mask in zip(nearest, rollout.vectors.mask, strict=True)]


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_without_temperature_they_are_the_embeddings_of_greedy_words(tiny: Tiny, kind: str):
    model = tiny(kind)
    context = read(model, *TEXTS[:4])
    written = model.write(context, Settings(max_tokens=6))
    ends = model.tokenizer.eos_token_id
    said = [[token for token in row if token != ends] for row in written.ids]
    assert words(model, model.roll_out(context, COLD)) == said


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_vector_is_the_mean_embedding_under_the_distribution(tiny: Tiny, kind: str):
    model, need = tiny(kind), Need("rollout", limit=1, feed="expected", temperature=2.0)
    context = read(model, "a key")
    share = torch.softmax(model.predict(context).float() / 2.0, -1)
    vector = model.roll_out(context, need).vectors.values[:, 0]
    torch.testing.assert_close(vector, share @ model.table, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_a_batch_of_sixteen_is_one_by_one(tiny: Tiny, kind: str):
    model, need = tiny(kind), Need("rollout", limit=5, feed="expected", temperature=1.0)
    together = model.roll_out(read(model, *TEXTS), need, Settings(stop=("e",)))
    for n, text in enumerate(TEXTS):
        alone = model.roll_out(read(model, text), need, Settings(stop=("e",)))
        row = together.vectors.rows(slice(n, n + 1))
        assert row.mask.shape == alone.vectors.rows(slice(None)).mask.shape
        torch.testing.assert_close(
            row.values, alone.vectors.rows(slice(None)).values, atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_a_row_ends_where_its_words_would(tiny: Tiny, kind: str):
    model = tiny(kind)
    context = read(model, *TEXTS)
    tokens = model.write(context, Settings(max_tokens=6)).ids
    stop = model.tokenizer.decode(tokens[0][2])  # every letter is a token of this tokenizer
    written = model.write(context, Settings(max_tokens=6, stop=(stop,)))
    soft = model.roll_out(context, COLD, Settings(stop=(stop,)))
    for row, ids in zip(words(model, soft), written.ids, strict=True):
        ended = len(ids) < 6 or stop in model.tokenizer.decode(ids)
        assert row == list(ids[:-1] if ended else ids)
    assert len(words(model, soft)[0]) <= 2
    assert not soft.vectors.mask[0, 0]  # padded on the left


def test_it_stops_when_all_rows_have_ended(tiny: Tiny):
    model = tiny("llama")
    context = read(model, "a key")
    first = model.write(context, Settings(max_tokens=1)).words[0]
    soft = model.roll_out(context, COLD, Settings(stop=(first,)))
    assert soft.passes == 1
    assert soft.vectors.mask.shape == (1, 0)


def test_the_agents_own_limit_counts_without_another(tiny: Tiny):
    plain = Role(template="{question}", chat=False)
    sender = Agent("sender", tiny("llama"), role=plain, settings=Settings(max_tokens=3))
    state, (usage,) = sender.compute({"question": ("Why?",)}, needs=SoftWords().needs)
    (rollout,) = state.rollouts.values()
    assert rollout.vectors.mask.shape[1] <= 3
    assert usage.passes == 1 + rollout.passes
    assert state.text is None
    both, _ = sender.compute({"question": ("Why?",)}, needs=SoftWords().needs | {TEXT})
    assert both.text is not None


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"limit": 0}])
def test_settings_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(ValueError, match=r"^(temperature|limit) is "):
        make_channel("soft", **options)


# -- over the words that both models know ----------------------------------------------------------


def mixing(sender: Backbone, receiver: Backbone, temperature: float = 1.0) -> VocabularyMixing:
    ours, theirs = (torch.tensor(ids) for ids in shared_vocabulary(sender, receiver))
    made = VocabularyMixing(
        source_width=sender.spec.width,
        target_width=receiver.spec.width,
        words=len(ours),
        temperature=temperature,
        target_weights=receiver.spec.weights,
    )
    made.start(sender.head[ours], receiver.embed(theirs))
    return made


def test_the_receiver_gets_its_own_embeddings_of_the_senders_words(tiny: Tiny):
    sender, receiver = tiny("gemma", width=48), tiny("llama")
    channel = SoftWords(limit=5, temperature=1e-4, projector=mixing(sender, receiver, 1e-4))
    agent = Agent("sender", sender, role=Role(template="{context}", chat=False))
    state, _ = agent.compute({"context": ("a key",)}, needs=channel.needs)
    payload = channel.send(state).payload
    assert isinstance(payload, Vectors)
    assert payload.values.shape[-1] == receiver.spec.width
    ours, theirs = shared_vocabulary(sender, receiver)
    (said,) = words(sender, state.rollouts[next(iter(channel.needs))])
    known = dict(zip(ours, theirs, strict=True))
    for vector, token in zip(payload.values[0], said, strict=True):
        if token in known:  # a special token of the sender becomes the next best word
            torch.testing.assert_close(vector, receiver.table[known[token]], atol=1e-3, rtol=1e-3)
    assert any(token in known for token in said)
    solver = Agent(
        "solver", receiver, role=Role("", "{messages}{question}", "{message}", chat=False)
    )
    heard = solver.read({"question": ("Who?",)}, [Incoming(channel, channel.send(state))])
    assert heard.tokens == (5 + 4,)


def test_a_bound_of_the_logits_is_kept(tiny: Tiny):
    made = mixing(tiny("gemma"), tiny("llama"))
    bound = VocabularyMixing(source_width=32, target_width=32, words=len(made.head), cap=0.01)
    bound.start(made.head, made.table)
    states = Vectors(torch.randn(1, 2, 1, 32), torch.ones(1, 2, dtype=torch.bool))
    flat = bound(states).values - made.table.mean(0)
    assert flat.abs().max() < 0.05
    assert (made(states).values - made.table.mean(0)).abs().max() > 0.05


def test_a_mixing_is_saved_and_loaded_by_name(tiny: Tiny, tmp_path: Path):
    made = mixing(tiny("gemma"), tiny("llama"), temperature=0.5)
    made.save_pretrained(tmp_path)
    channel = make_channel("soft", projector=str(tmp_path), limit=4)
    assert isinstance(channel, SoftWords)
    assert isinstance(channel.projector, VocabularyMixing)
    assert channel.projector.temperature == 0.5
    states = Vectors(torch.randn(1, 2, 1, 32), torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(channel.projector(states).values, made(states).values)


def test_models_that_do_not_fit_are_refused(tiny: Tiny):
    specs = tiny("gemma", width=48).spec, tiny("llama").spec
    with pytest.raises(IncompatibleModels, match="soft needs the same weights on both sides"):
        SoftWords().check(*specs)
    channel = SoftWords(projector=mixing(tiny("gemma"), tiny("llama")))
    with pytest.raises(
        IncompatibleModels, match=r"maps width 32 to 32, but sender .* of 48; train"
    ):
        channel.check(*specs)
