"""Latent steps: what a model feeds itself, batched as alone, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.backbone.rollout import alignment
from unspoken.channels import LatentRollout, make_channel
from unspoken.errors import ContextTooLong
from unspoken.pipeline import Edge, Pipeline
from unspoken.types import CACHE, TEXT, CacheSegment, Context, Need, Prompt, Rollout, Settings, Text

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

KINDS = ("llama", "qwen", "gemma", "gpt2")
TEXTS = tuple(f"{'key ' * (n % 5)}number {n * n}" for n in range(16))
RIDGE = Need("rollout", limit=4, feed="ridge")
IDENTITY = replace(RIDGE, feed="identity")
FED = 2e-2
"""A step takes in the rounding of the one before, and a random model spreads it: 2e-3 was seen.

A wrong position or mask is off by 0.1 and more.
"""


def read(model: Backbone, *texts: str) -> Context:
    return model.read(Prompt((Text(texts),))).context


def memory(rollout: Rollout) -> CacheSegment:
    assert rollout.cached is not None
    return rollout.cached


def close(left: torch.Tensor, right: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("need", [RIDGE, IDENTITY], ids=["ridge", "identity"])
def test_a_batch_of_sixteen_is_one_by_one(tiny: Tiny, kind: str, need: Need):
    model = tiny(kind)
    together = model.roll_out(read(model, *TEXTS), need)
    for n, text in enumerate(TEXTS):
        alone = model.roll_out(read(model, text), need)
        close(together.vectors.values[n], alone.vectors.values[0], FED)
        close(together.states.values[n], alone.states.values[0], FED)
        row = memory(together).rows(slice(n, n + 1))
        assert torch.equal(row.mask, memory(alone).mask)
        for pair, others in zip(row.kv, memory(alone).kv, strict=True):
            for left, right in zip(pair, others, strict=True):
                close(left, right, FED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_is_the_reading_of_its_vectors(tiny: Tiny, kind: str):
    """With the vectors in a prompt, one forward pass gives the cache that the steps gave."""
    model = tiny(kind)
    rolled = model.roll_out(read(model, *TEXTS[:3]), RIDGE)
    prompt = Prompt((Text(TEXTS[:3]), rolled.vectors, Text(("x",) * 3)))
    context = model.read(prompt).context
    for pair, others in zip(memory(rolled).kv, context.kv, strict=True):
        for left, right in zip(pair, others, strict=True):
            real = context.mask[:, :-1]
            close(left.transpose(1, 2)[memory(rolled).mask], right.transpose(1, 2)[real])


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_have_the_mean_norm_of_an_embedding(tiny: Tiny, kind: str):
    """For Gemma that of a scaled embedding: what its layers really take in."""
    model = tiny(kind)
    norm = model.table.norm(dim=1).mean()
    for need in (RIDGE, IDENTITY):
        norms = model.roll_out(read(model, *TEXTS[:3]), need).vectors.values.norm(dim=-1)
        close(norms, norm.expand_as(norms))


def test_gemmas_embeddings_are_scaled(tiny: Tiny):
    model = tiny("gemma")
    bare = model.model.get_output_embeddings().weight
    _, norm = alignment(bare, model.embed, ridge=False)
    assert float(norm / bare.norm(dim=1).mean()) == pytest.approx(32**0.5, rel=1e-2)


@pytest.mark.parametrize("kind", ["qwen", "gemma", "gpt2"])
def test_with_tied_embeddings_the_ridge_is_the_identity(tiny: Tiny, kind: str):
    model = tiny(kind)
    rolled = [model.roll_out(read(model, *TEXTS[:3]), need) for need in (RIDGE, IDENTITY)]
    close(rolled[0].vectors.values, rolled[1].vectors.values, atol=1e-3)


def test_with_untied_embeddings_it_is_the_papers_matrix(tiny: Tiny):
    model = tiny("llama")
    put, out = model.table.double(), model.model.get_output_embeddings().weight.double()
    wanted = torch.linalg.inv(out.T @ out + 1e-5 * torch.eye(32)) @ out.T @ put
    matrix, _ = alignment(out.float(), model.embed, ridge=True)
    assert matrix is not None
    close(matrix.double(), wanted)
    context = read(model, "a key")
    ridge, identity = (model.roll_out(context, need).vectors.values for need in (RIDGE, IDENTITY))
    assert (ridge - identity).abs().max() > 0.1
    state = model.roll_out(context, RIDGE).states.values[0, 0]
    mapped = state @ matrix
    close(ridge[0, 0], mapped / mapped.norm() * model.table.norm(dim=1).mean())


def test_no_vocabulary_is_computed_and_the_context_stays(tiny: Tiny):
    model = tiny("llama")
    context = read(model, *TEXTS[:2])
    before = [tensor.clone() for pair in context.kv for tensor in pair]
    heads: list[object] = []
    hook = model.model.get_output_embeddings().register_forward_hook(
        lambda *found: heads.append(found)
    )
    rolled = model.roll_out(context, RIDGE)
    hook.remove()
    assert not heads
    assert rolled.passes == RIDGE.limit + 1  # the last token of what was read, and four vectors
    after = [tensor for pair in context.kv for tensor in pair]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_latent_steps_are_passes_of_the_sender(tiny: Tiny):
    model = tiny("llama")
    sender = Agent("sender", model, role=Role(template="{context}", chat=False))
    fields = {"context": TEXTS[:2]}
    _, plain = sender.compute(fields, needs=frozenset({CACHE}))
    state, usage = sender.compute(fields, needs=LatentRollout(steps=7).needs)
    assert [cost.passes for cost in usage] == [cost.passes + 8 for cost in plain]
    assert [cost.written for cost in usage] == [0, 0]
    assert [cost.read for cost in usage] == [cost.read for cost in plain]
    (rolled,) = state.rollouts.values()
    assert memory(rolled).spelling.words == TEXTS[:2]
    assert memory(rolled).spelling.ends[:, -7:].unique().tolist() == [-1]


def test_two_rollouts_and_words_of_one_thought(tiny: Tiny):
    model = tiny("llama")
    sender = Agent("sender", model, settings=Settings(max_tokens=3))
    solver = Agent("solver", model, settings=Settings(max_tokens=3))
    channels = [
        make_channel("rollout", steps=n, align=a) for n, a in ((1, "ridge"), (3, "identity"))
    ]
    edges = [Edge("sender", "solver", channel) for channel in channels]
    state, _ = sender.compute(
        {"question": ("Where?",)}, needs=frozenset({TEXT}).union(*(c.needs for c in channels))
    )
    sizes = [channel.send(state).payload.mask.shape[1] for channel in channels]
    assert sizes[1] - sizes[0] == 2
    assert state.text is not None
    assert Pipeline([sender, solver], edges[1:]).run("Where?").turns[0].usage.wire > 0


def test_the_receiver_hears_the_latent_positions(tiny: Tiny):
    model = tiny("llama")
    pair = [Agent("reader", model, role=Role(template="{context}", chat=False))]
    pair.append(Agent("solver", model, role=Role(template="{question}", chat=False)))
    item = {"context": "a key", "question": "Where?"}
    said = {
        kind: Pipeline(pair, [Edge("reader", "solver", make_channel(kind))]).run(item).answer
        for kind in ("handoff", "rollout")
    }
    assert said["handoff"] != said["rollout"]


@pytest.mark.parametrize("options", [{"steps": 0}, {"align": "procrustes"}])
def test_what_is_no_rollout_is_refused(options: dict[str, object]):
    with pytest.raises(ValueError, match=r"^(steps|align) is "):
        make_channel("rollout", **options)


def test_a_rollout_beyond_the_positions_is_refused(tiny: Tiny, passes):
    model = tiny("llama")
    context = read(model, "a key")
    with passes(model) as seen, pytest.raises(ContextTooLong, match="5 positions read and 252 to"):
        model.roll_out(context, Need("rollout", limit=252))
    assert not seen
