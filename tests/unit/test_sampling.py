"""Sampled answers belong to items: the same in any batch, order and thread."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from unspoken.agents import Agent
from unspoken.backbone import Backbone
from unspoken.backbone.generation import Row, Sampler
from unspoken.channels import TextChannel
from unspoken.errors import SettingsError
from unspoken.pipeline import Edge, Pipeline
from unspoken.runs import fields_of
from unspoken.testing import tiny_backbone
from unspoken.types import Settings

HOT = Settings(8, temperature=1.0, seed=3)
QUESTIONS = [f"Is it {'very ' * (n % 5)}late, number {n}?" for n in range(20)]


@pytest.fixture
def model(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("llama")


def pipeline(model: Backbone, settings: Settings = HOT) -> Pipeline:
    agents = [Agent(name, model, settings=settings) for name in ("scout", "judge")]
    return Pipeline(agents, [Edge("scout", "judge", TextChannel())])


def answers(runs: Any) -> list[tuple[str | None, ...]]:
    return [tuple(turn.text for turn in run.turns) for run in runs]


def test_a_sampled_answer_depends_on_neither_batch_nor_order_nor_thread(model: Backbone) -> None:
    line = pipeline(model)
    alone = answers(line.run(question) for question in QUESTIONS)
    assert len(set(alone)) == len(alone)
    for size in (2, 8, 16):
        assert answers(line.run_many(QUESTIONS, batch_size=size)) == alone
    assert answers(line.run_many(QUESTIONS[::-1], batch_size=7)) == alone[::-1]
    assert answers(line.run_many(QUESTIONS[5:9])) == alone[5:9]

    async def at_once() -> list[Any]:
        return await asyncio.gather(*map(line.arun, QUESTIONS))

    assert answers(asyncio.run(at_once())) == alone


def test_seeds_and_agents_draw_apart(model: Backbone) -> None:
    one = pipeline(model).run("Is it?")
    other = pipeline(model, Settings(8, temperature=1.0, seed=4)).run("Is it?")
    assert one.answer != other.answer
    names = Pipeline([Agent("a", model, settings=HOT)]), Pipeline([Agent("b", model, settings=HOT)])
    assert len({p.run("Is it?").answer for p in names}) == 2


def test_the_process_keeps_its_own_random_state(model: Backbone) -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    pipeline(model).run_many(QUESTIONS[:3])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    found = answers([pipeline(model).run(QUESTIONS[0])])
    torch.manual_seed(6)
    assert answers([pipeline(model).run(QUESTIONS[0])]) == found


def draws(settings: Settings, logits: torch.Tensor, count: int) -> Counter[int]:
    """How often each word is drawn, each time with another seed."""
    rows = [Row(settings, seed) for seed in range(count)]
    scores = Sampler(rows, torch.device("cpu"))(None, logits.expand(count, -1))
    return Counter(scores.argmax(-1).tolist())


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7), (1.0, 0.3)])
def test_words_are_drawn_as_often_as_transformers_says(temperature: float, top_p: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    warped = TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped
    chance = warped.softmax(-1)[0].tolist()
    count = 4000
    found = draws(Settings(temperature=temperature, top_p=top_p), logits, count)
    assert set(found) <= {n for n, p in enumerate(chance) if p > 0}
    likely = [n for n, p in enumerate(chance) if p * count >= 5]
    seen = [found[n] for n in likely] + [count - sum(found[n] for n in likely)]
    expected = [chance[n] * count for n in likely]
    expected.append(count - sum(expected))
    if expected[-1] < 1e-6 * count:
        seen, expected = seen[:-1], expected[:-1]
    scale = sum(seen) / sum(expected)
    assert len(seen) == 1 or chisquare(seen, [e * scale for e in expected]).pvalue > 1e-3
    shifted = draws(Settings(temperature=temperature, top_p=top_p), logits.flip(-1), count)
    assert shifted != found  # a test that would pass for any logits shows nothing


def test_cold_rows_stay_as_they_are_beside_hot_ones() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(1))
    cold, hot = Settings(), Settings(temperature=1.0)
    scores = Sampler([Row(cold, 0), Row(hot, 1), Row(cold, 2)], torch.device("cpu"))(None, logits)
    assert torch.equal(scores[[0, 2]], logits[[0, 2]])
    assert not torch.equal(scores[1], logits[1])


def test_a_model_takes_one_seed_or_one_a_row(model: Backbone) -> None:
    def written(count: int, seed: Any) -> tuple[str, ...]:
        prompt = Agent("a", model).prompt(fields_of(["Is it?"] * count))
        settings = Settings(8, temperature=1.0, seed=seed)
        return model.write(model.read(prompt).context, settings).words

    assert len(set(written(3, 7))) == 1
    assert written(3, (7, 8, 9))[0] == written(1, 7)[0]
    assert len(set(written(3, (7, 8, 9)))) == 3
    with pytest.raises(SettingsError, match="2 seeds are given for 3 rows"):
        written(3, (7, 8))


def test_models_that_read_again_draw_the_same_too() -> None:
    model = tiny_backbone("gpt2")
    line = pipeline(model)
    assert answers(line.run_many(QUESTIONS[:4])) == answers(map(line.run, QUESTIONS[:4]))
