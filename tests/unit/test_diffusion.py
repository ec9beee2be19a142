"""Masked diffusion: how a canvas is filled, what it costs, what a model cannot do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.randomness import untouched
from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone, DiffusionBackbone, Masked, load_model
from unspoken.backbone.diffusion import DREAM, LLADA, Frame, watching
from unspoken.backbone.diffusion.sampling import Guess, budgets, denoise
from unspoken.channels import Embedding, TextChannel, make_channel
from unspoken.errors import ContextTooLong, DataError, IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.protocols import movable
from unspoken.testing import DIFFUSION_KINDS, tiny_diffusion
from unspoken.types import (
    CACHE,
    TEXT,
    Context,
    Denoising,
    Need,
    Prompt,
    Settings,
    Spec,
    Text,
    Vectors,
)

pytestmark = pytest.mark.numbers

Tiny = Callable[..., Backbone]

TEXTS = ("two", "three plus four is", "a")
STATES = frozenset({Need("hidden", -1), Need("hidden", 1)})
MASK = 3
PLAN = Denoising(max_tokens=12, steps=6, block=5)


@pytest.fixture(scope="module", params=DIFFUSION_KINDS)
def model(request: pytest.FixtureRequest) -> DiffusionBackbone:
    return tiny_diffusion(request.param)


@pytest.fixture(scope="module")
def llada() -> DiffusionBackbone:
    return tiny_diffusion("llada")


def read(model: DiffusionBackbone, *texts: str, needs: frozenset[Need] = frozenset()) -> Context:
    return model.read(Prompt((Text(texts),)), needs=needs | {TEXT}).context


def close(left: Tensor, right: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-4)


# The schedule ------------------------------------------------------------------------------------


def fixed(logits: Tensor) -> Callable[[Tensor, slice], Guess]:
    """A model that says the same whatever it reads: logits (n, V)."""

    def predict(canvas: Tensor, window: slice) -> Guess:
        return Guess(logits[window].expand(canvas.shape[0], -1, -1).clone(), {})

    return predict


def canvas(size: int, batch: int = 1) -> Tensor:
    return torch.full((batch, size), MASK)


def order(logits: Tensor, settings: Denoising) -> list[list[int]]:
    """Which positions are filled in each step."""
    seen: list[list[int]] = []

    def tell(canvas: Tensor, new: Tensor, step: int, steps: int) -> None:
        seen.append(new[0].nonzero()[:, 0].tolist())

    denoise(fixed(logits), canvas(len(logits)), MASK, (), settings, tell)
    return seen


def lladas_loop(
    predict: Callable[[Tensor], Tensor], size: int, steps: int, block: int
) -> tuple[list[int], int]:
    """The published loop for one row at temperature 0, step by step, position by position."""
    ids = [MASK] * size
    passes = 0
    per_block = steps // (size // block)
    for start in range(0, size, block):
        base, rest = divmod(block, per_block)
        for step in range(per_block):
            passes += 1
            logits = predict(torch.tensor([ids]))[0]
            logits[:, MASK] = -torch.inf
            words = logits.argmax(1)
            sure = logits.softmax(1).gather(1, words[:, None])[:, 0]
            open_ = [n for n in range(start, start + block) if ids[n] == MASK]
            best = sorted(open_, key=lambda n: -float(sure[n]))
            for n in best[: base + (step < rest)]:
                ids[n] = int(words[n])
    return ids, passes


@pytest.mark.parametrize(("steps", "block"), [(12, 12), (6, 6), (4, 6), (8, 3), (12, 4)])
def test_a_canvas_is_filled_as_by_the_published_loop(steps: int, block: int):
    torch.manual_seed(1)
    table, mix = torch.randn(30, 30), torch.randn(12, 12)

    def logits(ids: Tensor) -> Tensor:  # what a position says depends on all that are filled
        return torch.einsum("nm,bmv->bnv", mix, table[ids])

    def predict(canvas: Tensor, window: slice) -> Guess:
        return Guess(logits(canvas)[:, window], {})

    wanted, passes = lladas_loop(logits, 12, steps, block)
    settings = Denoising(max_tokens=12, steps=steps, block=block)
    found = denoise(predict, canvas(12), MASK, (), settings)
    assert (found.ids[0].tolist(), found.passes) == (wanted, passes)


@pytest.mark.parametrize(
    ("size", "steps", "block", "wanted"),
    [
        (64, 64, 32, [32, 32]),
        (10, 5, None, [5]),
        (7, 3, 4, [1, 2]),
        (8, 1, 2, [1, 1, 1, 1]),
        (3, 64, 32, [3]),
    ],
)
def test_steps_are_shared_among_blocks(size: int, steps: int, block: int | None, wanted: list[int]):
    assert budgets(size, Denoising(steps=steps, block=block)) == wanted
    torch.manual_seed(0)
    settings = Denoising(steps=steps, block=block)
    found = denoise(fixed(torch.randn(size, 9)), canvas(size), MASK, (), settings)
    assert found.passes == sum(wanted)
    assert not (found.ids == MASK).any()


def test_each_rule_keeps_other_positions():
    """Four positions over words 4 to 7: the probabilities say which are kept first."""
    probabilities = torch.tensor(
        [
            [0.50, 0.48, 0.01, 0.01],  # likely, narrow
            [0.45, 0.19, 0.18, 0.18],  # wide margin, high entropy
            [0.49, 0.495, 0.0075, 0.0075],  # hardly less likely than the first, lowest entropy
            [0.30, 0.30, 0.20, 0.20],
        ]
    )
    logits = torch.full((4, 8), -torch.inf)
    logits[:, 4:] = probabilities.log()
    plan = Denoising(steps=4, block=None)
    found = {
        rule: [step[0] for step in order(logits, replace(plan, remask=cast(Any, rule)))]
        for rule in ("confidence", "margin", "entropy", "random")
    }
    assert found["confidence"] == [0, 2, 1, 3]
    assert found["margin"] == [1, 0, 2, 3]
    assert found["entropy"] == [2, 0, 1, 3]
    rng = torch.Generator().manual_seed(0)
    draws = [torch.rand(4, generator=rng) for _ in range(4)]
    left, wanted = {0, 1, 2, 3}, []
    for draw in draws:
        wanted.append(max(left, key=lambda n: float(draw[n])))
        left.remove(wanted[-1])
    assert found["random"] == wanted


def test_the_mask_is_never_chosen():
    logits = torch.randn(6, 9)
    logits[:, MASK] = 99
    found = denoise(fixed(logits), canvas(6), MASK, (), Denoising(steps=6))
    assert not (found.ids == MASK).any()


def test_what_is_sure_ends_a_canvas_early():
    logits = torch.zeros(8, 9)
    logits[:5, 4] = 9.0  # five positions are sure, three are not
    plan = Denoising(steps=8, block=None, threshold=0.9)
    assert order(logits, plan) == [[0, 1, 2, 3, 4], [5], [6], [7]]  # of equal ones the left one
    assert len(order(logits, replace(plan, threshold=None))) == 8
    assert order(logits, replace(plan, threshold=0.05)) == [list(range(8))]


def test_a_share_of_the_steps_fills_the_rest_at_once():
    logits = torch.randn(8, 9, generator=torch.Generator().manual_seed(0))
    seen = order(logits, Denoising(steps=8, block=4, until=0.5))
    assert [len(step) for step in seen] == [1, 1, 1, 5]
    assert order(logits, Denoising(steps=8, block=4, until=0.01)) == [list(range(8))]


def test_temperature_is_lladas_gumbel_noise():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    settings = Denoising(steps=1, temperature=0.7, seed=5)
    found = denoise(fixed(logits), canvas(5), MASK, (), settings).ids[0]
    uniform = torch.rand(5, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noisy = logits.double().exp() / (-torch.log(uniform)) ** 0.7
    noisy[:, MASK] = 0
    assert torch.equal(found, noisy.argmax(1))
    drawn = {
        tuple(
            denoise(fixed(logits), canvas(5), MASK, (), replace(settings, seed=n)).ids[0].tolist()
        )
        for n in range(8)
    }
    assert len(drawn) > 1


@pytest.mark.parametrize("remask", ["confidence", "random"])
def test_a_row_has_its_seed_and_gives_the_same_in_a_batch_as_alone(
    model: DiffusionBackbone, remask: Any
):
    plan = replace(PLAN, remask=remask, temperature=1.0)
    own = replace(plan, seed=cast(Any, (4, 7, 4)))
    with untouched():
        together = model.write(read(model, *TEXTS), own)
    for n, (text, seed) in enumerate(zip(TEXTS, (4, 7, 4), strict=True)):
        alone = model.write(read(model, text), replace(plan, seed=seed))
        assert together.ids[n] == alone.ids[0]
    same = model.write(read(model, *TEXTS), replace(plan, seed=4))
    assert [one == two for one, two in zip(together.ids, same.ids, strict=True)] == [1, 0, 1]
    with pytest.raises(ValueError, match=r"2 seeds are given for 3 rows; give one number"):
        model.write(read(model, *TEXTS), replace(plan, seed=cast(Any, (4, 7))))


def test_words_are_drawn_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    logits = torch.full((3000, 7), -torch.inf)
    logits[:, 4:] = probabilities.log()
    settings = Denoising(steps=1, block=None, temperature=1.0)
    found = denoise(fixed(logits), canvas(3000), MASK, (), settings).ids
    share = (found[0] - 4).bincount(minlength=3) / 3000
    close(share, probabilities, atol=0.03)
    narrow = denoise(fixed(logits), canvas(3000), MASK, (), replace(settings, top_p=0.5)).ids
    assert narrow.unique().tolist() == [4]


def test_behind_an_end_nothing_is_denoised():
    logits = torch.full((8, 9), 0.0)
    logits[:, 5] = 4.0
    logits[2, 2] = 9.0  # an end at position 2, in the first block
    found = denoise(fixed(logits), canvas(8), MASK, (2,), Denoising(steps=8, block=4))
    assert found.ids[0].tolist() == [5, 5, 2, 2, 2, 2, 2, 2]
    assert found.passes == 3  # the end itself is surest, then the two before it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"block": 0}, "at least 1 step"),
        ({"until": 0.0}, "a share above 0"),
        ({"guidance": -1.0}, "guidance is 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Denoising(**options)


# The model ---------------------------------------------------------------------------------------

WAYS = {
    "plain": PLAN,
    "margin": replace(PLAN, remask="margin"),
    "entropy": replace(PLAN, remask="entropy", block=None),
    "random": replace(PLAN, remask="random", seed=3),
    "warm": replace(PLAN, temperature=0.8, seed=1),
    "sure": replace(PLAN, threshold=0.2, steps=12),
    "guided": replace(PLAN, guidance=1.5),
    "clean": replace(PLAN, capture="clean"),
    "early": replace(PLAN, until=0.5),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_its_rows_alone(model: DiffusionBackbone, way: str):
    """Prompts of unlike length, padded left; an end where a row says so."""
    together = model.write(read(model, *TEXTS, needs=STATES), WAYS[way])
    assert together.ids != ()
    for n, text in enumerate(TEXTS):
        alone = model.write(read(model, text, needs=STATES), WAYS[way])
        assert (alone.ids[0], alone.words[0]) == (together.ids[n], together.words[n])
        for layer in (1, -1):
            states = together.hidden[layer]
            close(states.values[n][states.mask[n]], alone.hidden[layer].values[0], 2e-3)


@pytest.mark.parametrize("way", WAYS)
def test_every_forward_pass_is_counted(model: DiffusionBackbone, passes, way: str):
    context = read(model, "two", needs=STATES)
    model.write(context, PLAN)  # that it sees in both directions is tried once, and not counted
    with passes(model) as seen:
        written = model.write(context, WAYS[way])
    assert len(seen) == written.passes
    steps = sum(budgets(12, PLAN))
    if way in ("plain", "margin", "random", "warm"):
        assert written.passes == steps or model.ends[0] in written.ids[0]


def test_reading_costs_no_pass(llada: DiffusionBackbone, passes):
    with passes(llada) as seen:
        found = llada.read(Prompt((Text(("lead ",) * 2, shared=True), Text(("a", "bcd")))))
    assert (found.passes, found.tokens, len(seen)) == (0, (6, 8), 0)


def sequence(model: DiffusionBackbone, text: str, ids: list[int]) -> dict[str, Any]:
    """Prompt and canvas of one row, as a plain call of the model takes them."""
    before, behind = list(model.masked.before or ()), list(model.masked.behind)
    row = torch.tensor([[*before, *model.tokens(text), *ids, *behind]])
    size = row.shape[1]
    return {"input_ids": row, "attention_mask": torch.zeros(1, 1, size, size)}


def told(model: DiffusionBackbone, text: str, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The logits of the canvas and the last hidden states that they come from, by a plain call."""
    inputs = sequence(model, text, ids)
    begin = inputs["input_ids"].shape[1] - len(ids) - len(model.masked.behind) - model.masked.shift
    with torch.no_grad():
        out = model.model(**inputs, output_hidden_states=True)
    said = slice(begin, begin + len(ids))
    return out.logits[0, said], out.hidden_states[-1][0, said]


def test_words_and_states_are_those_of_a_plain_call(model: DiffusionBackbone):
    """In one step all positions are filled from masks alone; shifted logits are those before."""
    plan = Denoising(max_tokens=6, steps=1, block=None)
    logits, early = told(model, "two", [MASK] * 6)
    logits[:, MASK] = -torch.inf
    context = read(model, "two", needs=STATES)
    written = model.write(context, plan)
    ids = logits.argmax(1).tolist()
    count = len(written.ids[0])
    assert written.ids[0] == tuple(ids[:count])
    close(written.hidden[-1].values[0], early[:count])
    _, clean = told(model, "two", ids)
    found = model.write(context, replace(plan, capture="clean"))
    close(found.hidden[-1].values[0], clean[:count])
    assert found.passes == written.passes + 1


def test_guidance_weighs_the_prompt_against_its_absence(llada: DiffusionBackbone):
    plan = Denoising(max_tokens=6, steps=1, block=None, guidance=2.0)
    with_, _ = told(llada, "two", [MASK] * 6)
    size = len(llada.tokens("two"))
    row = torch.full((1, size + 6), MASK)
    with torch.no_grad():
        out = llada.model(input_ids=row, attention_mask=torch.zeros(1, 1, size + 6, size + 6))
    without = out.logits[0, size:]
    logits = with_ + 2.0 * (with_ - without)  # as published: without + (w + 1) (with - without)
    logits[:, MASK] = -torch.inf
    written = llada.write(read(llada, "two"), plan)
    assert written.ids[0] == tuple(logits.argmax(1).tolist()[: len(written.ids[0])])
    assert written.passes == 2


def test_states_end_with_what_was_written(llada: DiffusionBackbone):
    plan = replace(PLAN, block=1, steps=12)
    end = llada.write(read(llada, "two", "a"), plan).ids[0][3]
    ending = DiffusionBackbone(
        llada.model, llada.tokenizer, replace(llada.masked, ends=(end,)), name="ending"
    )
    found = ending.write(read(ending, "two", "a", needs=STATES), plan)
    for n, count in enumerate(found.tokens):
        assert int(found.hidden[-1].mask[n].sum()) == count == len(found.ids[n])
        assert end not in found.ids[n][:-1]
    assert found.tokens[0] <= 4


def test_a_stop_string_ends_what_is_written(llada: DiffusionBackbone):
    whole = llada.write(read(llada, "two"), PLAN)
    stop = whole.words[0][4:6]
    found = llada.write(read(llada, "two"), replace(PLAN, stop=(stop,)))
    assert found.words[0] == whole.words[0].split(stop)[0]
    assert stop in llada.tokenizer.decode(found.ids[0])
    assert found.tokens[0] < whole.tokens[0]


def test_plain_settings_are_the_default_of_a_canvas(llada: DiffusionBackbone):
    context, said = read(llada, "two"), list[str]()
    found = llada.write(context, Settings(max_tokens=12), lambda _, words: said.append(words))
    assert found.words == llada.write(context, Denoising(max_tokens=12)).words
    assert said == list(found.words)


def test_vectors_are_read_as_the_words_that_they_embed(model: DiffusionBackbone):
    ids = torch.tensor([model.tokens("plus")])
    vectors = Vectors(model.embed(ids), torch.ones(1, 4, dtype=torch.bool))
    prompt = Prompt((Text(("two ",)), vectors, Text((" is",))))
    found = model.write(model.read(prompt).context, PLAN)
    words = model.write(read(model, "two plus is"), PLAN)
    assert found.ids == words.ids


def test_a_model_that_stays_causal_is_refused():
    model = tiny_diffusion("llada", seed=5)
    inner = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, **k: inner(*a, **k)
    with pytest.raises(IncompatibleModels, match="sees only what is before a position"):
        model.write(read(model, "two"), PLAN)


def test_a_canvas_beyond_the_positions_is_refused(llada: DiffusionBackbone, passes):
    context = read(llada, "two")
    with passes(llada) as seen, pytest.raises(ContextTooLong, match="3 positions and a canvas of"):
        llada.write(context, Denoising(max_tokens=254))
    assert not seen


# Score -------------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_loss_of_what_is_masked(model: DiffusionBackbone):
    answer = model.tokens("four!")
    score = model.score(read(model, "two"), [answer], seed=7)
    rng = torch.Generator().manual_seed(7)
    ratio = 1e-3 + (1 - 1e-3) * torch.rand(1, generator=rng)
    hidden = (torch.rand(1, 5, generator=rng) < ratio[:, None])[0]
    assert 0 < int(hidden.sum()) < 5
    seen = [MASK if gone else token for token, gone in zip(answer, hidden.tolist(), strict=True)]
    logits, _ = told(model, "two", seen)
    losses = -logits.log_softmax(1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    close(score, (losses[hidden].sum() / ratio))


def test_the_score_of_answers_of_unlike_length(llada: DiffusionBackbone):
    """Many samples of a batch agree with those of its rows alone: padding changes nothing."""
    context = read(llada, "two", "three plus four is")
    answers = ["ab", "abcdef"]
    means = torch.stack([llada.score(context, answers, seed=n) for n in range(60)]).mean(0)
    alone = [
        torch.stack([llada.score(read(llada, text), [answer], seed=n) for n in range(60)]).mean()
        for text, answer in zip(("two", "three plus four is"), answers, strict=True)
    ]
    for together, single in zip(means.tolist(), alone, strict=True):
        assert together == pytest.approx(float(single), rel=0.25)
    with pytest.raises(ValueError, match="need 2 answers"):
        llada.score(context, ["a"])


def test_gradients_reach_the_weights_and_the_vectors():
    model = tiny_diffusion("dream")
    values = model.embed(torch.tensor([[70, 71]])).detach().requires_grad_(True)
    prompt = Prompt((Vectors(values, torch.ones(1, 2, dtype=torch.bool)), Text(("is",))))
    model.model.requires_grad_(True)
    model.score(model.read(prompt).context, ["four"], seed=1).sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
    without = [n for n, p in model.model.named_parameters() if p.grad is None]
    assert not without


# What cannot be ----------------------------------------------------------------------------------


def pair(sender: Any, receiver: Any, channel: Any) -> Pipeline:
    settings = Denoising(max_tokens=6, steps=3)
    agents = [
        Agent("planner", sender, role=Role(template="{context}", chat=False), settings=settings),
        Agent(
            "executor",
            receiver,
            role=Role(template="{messages}Q: {question}", chat=False),
            settings=settings,
        ),
    ]
    return Pipeline(agents, [Edge("planner", "executor", channel)])


@pytest.mark.parametrize("kind", ["handoff", "rollout", "layers", "soft"])
def test_a_channel_that_needs_a_cache_refuses_a_diffusion_model(
    tiny: Tiny, llada: DiffusionBackbone, passes, kind: str
):
    causal = tiny("llama")
    what = "latent steps on a cache" if kind in ("rollout", "soft") else "a cache"
    with passes(llada) as seen, pytest.raises(IncompatibleModels, match=f"needs {what} from its"):
        pair(llada, causal, make_channel(kind))
    if kind != "soft":  # soft words are vectors, which it could read
        with pytest.raises(IncompatibleModels, match="makes its receiver read a cache"):
            pair(causal, llada, make_channel(kind))
    assert not seen


def test_what_needs_a_cache_is_refused_by_the_model_too(llada: DiffusionBackbone, tiny: Tiny):
    memory = tiny("llama").read(Prompt((Text(("a",)),)), needs=frozenset({CACHE})).cached
    assert memory is not None
    with pytest.raises(IncompatibleModels, match="is a diffusion model and reads no cache"):
        llada.read(Prompt((memory, Text(("a",)))))
    with pytest.raises(IncompatibleModels, match=r"keeps no cache\. Use a causal model"):
        llada.read(Prompt((Text(("a",)),)), needs=frozenset({CACHE}))
    with pytest.raises(IncompatibleModels, match="has no cache to move"):
        movable(llada, "a memory is moved")
    with pytest.raises(IncompatibleModels, match="another model's context"):
        llada.write(tiny("llama").read(Prompt((Text(("a",)),))).context)
    with pytest.raises(IncompatibleModels, match="a pool serves readers of a cache"):
        AnchorPool().wrap(llada)
    narrow = Vectors(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(IncompatibleModels, match=r"8 wide, but .* embeds 32"):
        llada.read(Prompt((narrow, Text(("a",)))))


# Planner and executor ----------------------------------------------------------------------------

ITEMS = [
    {"context": "The key is in the attic.", "question": "Where is it?"},
    {"context": "It rains.", "question": "Does it rain today?"},
    {"context": "Two and two are four.", "question": "How many?"},
]


def embedding(sender: Spec, receiver: Spec) -> Embedding:
    torch.manual_seed(0)
    return Embedding(
        EmbeddingProjector(
            source_width=sender.width,
            target_width=receiver.width,
            layers=[-1],
            hidden=16,
            scale=0.3,
            source_weights=sender.weights,
            target_weights=receiver.weights,
        )
    )


@pytest.mark.parametrize("kind", ["text", "embedding"])
@pytest.mark.parametrize("receiver", ["causal", "diffusion"])
@pytest.mark.parametrize("sender", ["causal", "diffusion"])
def test_all_four_pairings(tiny: Tiny, sender: str, receiver: str, kind: str):
    made = {"causal": tiny("qwen", width=48), "diffusion": tiny_diffusion("dream", width=48)}
    ours, theirs = made[sender], made[receiver]
    channel = TextChannel() if kind == "text" else embedding(ours.spec, theirs.spec)
    line = pair(ours, theirs, channel)
    runs = line.run_many(ITEMS, batch_size=3)
    for item, found in zip(ITEMS, runs, strict=True):
        alone = line.run(item)
        assert (alone.answer, alone.turns[0].text) == (found.answer, found.turns[0].text)
        planned, answered = found.turns
        assert planned.usage.wire > 0
        steps = 3  # of denoising
        if sender == "diffusion":
            assert planned.usage.passes == steps
            assert planned.text is not None  # its words come with its states
        if receiver == "diffusion":
            assert answered.usage.passes == steps
    silent = line.without_messages().run(ITEMS[0]).answer
    assert silent != runs[0].answer


def test_words_and_states_of_one_thought_are_one_canvas(llada: DiffusionBackbone, passes):
    planner = Agent("planner", llada, role=Role(template="{context}"), settings=PLAN)
    fields = {"context": ("The key is in the attic.",)}
    planner.compute(fields)
    with passes(llada) as seen:
        state, (cost,) = planner.compute(fields, needs=STATES | {TEXT})
    assert len(seen) == cost.passes == sum(budgets(12, PLAN))
    assert state.text is not None
    assert state.hidden[-1].values.shape[1] == cost.written
    assert state.hidden[1].mask.sum() == cost.written


def test_a_limit_of_words_does_not_shorten_the_canvas_of_states(llada: DiffusionBackbone):
    planner = Agent("planner", llada, role=Role(template="{context}"), settings=PLAN)
    fields = {"context": ("The key is in the attic.",)}
    needs = frozenset({Need("text", limit=4)})
    short, _ = planner.compute(fields, needs=needs)
    both, _ = planner.compute(fields, needs=needs | STATES)
    assert short.text != both.text
    assert both.text == planner.compute(fields, needs=STATES)[0].text


# On disk -----------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was(model: DiffusionBackbone, tmp_path: Path, tiny: Tiny):
    model.save_pretrained(tmp_path / "planner")
    found = load_model(str(tmp_path / "planner"))
    assert isinstance(found, DiffusionBackbone)
    assert (found.masked, found.fingerprint) == (model.masked, model.fingerprint)
    ids = model.write(read(model, "two"), PLAN).ids
    assert found.write(read(found, "two"), PLAN).ids == ids
    causal = tiny("llama")
    cast(Any, causal.model).save_pretrained(tmp_path / "causal")
    causal.tokenizer.save_pretrained(tmp_path / "causal")
    assert isinstance(load_model(str(tmp_path / "causal")), Backbone)
    with pytest.raises(DataError, match=r"diffusion.json does not say how"):
        DiffusionBackbone.from_pretrained(str(tmp_path / "causal"))
    (tmp_path / "causal" / "diffusion.json").write_text('{"masks": 3}')
    with pytest.raises(DataError, match=r"unexpected keyword argument 'masks'"):
        load_model(str(tmp_path / "causal"))


def test_a_published_llada_is_a_llama(tmp_path: Path):
    """Its tensors and settings have other names; what it says is the same."""
    from safetensors.torch import save_file

    model = tiny_diffusion("llada", seed=2)
    config = model.model.config
    names = {
        "model.embed_tokens": "model.transformer.wte",
        "model.norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
        "model.layers": "model.transformer.blocks",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ff_norm",
        "self_attn.o_proj": "attn_out",
        "self_attn.": "",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
    }
    tensors: dict[str, Tensor] = {}
    for name, value in model.model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        tensors[name] = value.clone()
    assert "model.transformer.blocks.2.ff_out.weight" in tensors
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    told = {
        "model_type": "llada",
        "d_model": config.hidden_size,
        "mlp_hidden_size": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "embedding_size": config.vocab_size,
        "vocab_size": config.vocab_size,
        "max_sequence_length": 256,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": 10000.0,
        "block_type": "llama",
        "include_bias": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(told))
    model.tokenizer.save_pretrained(tmp_path)
    found = load_model(str(tmp_path))
    assert isinstance(found, DiffusionBackbone)
    assert found.masked == LLADA
    assert found.fingerprint == model.fingerprint
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        close(found.model(input_ids=ids).logits, model.model(input_ids=ids).logits, 1e-6)
    (tmp_path / "config.json").write_text(json.dumps({**told, "alibi": True}))
    with pytest.raises(IncompatibleModels, match="no Llama: alibi"):
        load_model(str(tmp_path))


def test_a_published_dream_is_a_qwen(tmp_path: Path):
    model = tiny_diffusion("dream", seed=2)
    cast(Any, model.model).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told |= {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 151666}
    told |= {"rope_theta": 123456.0, "rope_scaling": None}  # as transformers 4 wrote it
    del told["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    found = load_model(str(tmp_path))
    assert isinstance(found, DiffusionBackbone)
    assert (found.masked, found.spec.former) == (DREAM, model.spec.former)
    assert found.model.config.rope_parameters["rope_theta"] == 123456.0


# Watching ----------------------------------------------------------------------------------------


def test_a_canvas_is_seen_while_it_fills(llada: DiffusionBackbone):
    frames: list[Frame] = []
    planner = Agent("planner", llada, role=Role(template="{context}"), settings=PLAN)
    solver = Agent("solver", llada, settings=replace(PLAN, steps=3))
    line = Pipeline([planner, solver], [Edge("planner", "solver", TextChannel())])
    with watching(frames.append):
        found = line.run(ITEMS[0])
    planned = frames[: sum(budgets(12, PLAN))]
    assert [frame.step for frame in planned] == list(range(1, len(planned) + 1))
    open_ = [sum(word is None for word in frame.words) for frame in planned]
    assert open_ == sorted(open_, reverse=True)
    assert open_[0] < 12
    assert open_[-1] == 0
    for before, frame in pairwise(planned):
        fresh = [n for n, new in enumerate(frame.fresh) if new]
        assert all(before.words[n] is None for n in fresh)
    assert len(frames) > len(planned)  # the solver's
    frames.clear()
    line.run(ITEMS[0])
    assert not frames
    assert found.turns[0].text


def test_masked_ratio_weights_are_a_thousand_at_most(llada: DiffusionBackbone):
    """The rarest ratio is bounded, so no sample can be infinite."""
    context = read(llada, "two")
    scores = [float(llada.score(context, ["four"], seed=n)) for n in range(30)]
    assert all(math.isfinite(score) for score in scores)
    assert Masked(mask=MASK).shift is False
