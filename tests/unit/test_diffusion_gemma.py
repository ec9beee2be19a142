"""DiffusionGemma of transformers behind the verbs of a diffusion model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone, DiffusionGemma
from unspoken.backbone.diffusion import Frame, watching
from unspoken.channels import Embedding, TextChannel
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector
from unspoken.testing import tiny_backbone, tiny_diffusion_gemma
from unspoken.types import TEXT, Denoising, Need, Prompt, Settings, Text

# transformers imports a part of torch that warns of another one
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

PLAN = Denoising(max_tokens=20, steps=4)
STATES = frozenset({TEXT, Need("hidden", -1)})
TEXTS = ("two", "three plus four is")


@pytest.fixture(scope="module")
def gemma() -> DiffusionGemma:
    return tiny_diffusion_gemma()


def context(model: DiffusionGemma, *texts: str) -> Any:
    return model.read(Prompt((Text(texts),)), needs=STATES).context


@pytest.mark.numbers
def test_states_are_those_that_the_words_were_chosen_from(gemma: DiffusionGemma):
    """The head of the model makes the words of the states, over two canvases of 16."""
    found = gemma.write(context(gemma, "two"), PLAN)
    count = found.tokens[0]
    states = found.hidden[-1].values[0]
    assert states.shape == (count, 32)
    with torch.no_grad():
        assert gemma.model.lm_head(states).argmax(1).tolist() == list(found.ids[0])
    assert count <= 20


@pytest.mark.numbers
def test_a_batch_is_its_rows_alone(gemma: DiffusionGemma):
    together = gemma.write(context(gemma, *TEXTS), PLAN)
    alone = [gemma.write(context(gemma, text), PLAN) for text in TEXTS]
    assert together.ids == tuple(one.ids[0] for one in alone)
    for n, one in enumerate(alone):
        states = together.hidden[-1]
        assert torch.equal(states.values[n][states.mask[n]], one.hidden[-1].values[0])
    assert together.passes == max(one.passes for one in alone)
    other = gemma.write(context(gemma, *TEXTS), replace(PLAN, seed=1))
    assert other.ids != together.ids


@pytest.mark.numbers
def test_rows_have_seeds_of_their_own(gemma: DiffusionGemma):
    own = gemma.write(context(gemma, *TEXTS), replace(PLAN, seed=cast(Any, (3, 8))))
    for n, (text, seed) in enumerate(zip(TEXTS, (3, 8), strict=True)):
        assert own.ids[n] == gemma.write(context(gemma, text), replace(PLAN, seed=seed)).ids[0]


@pytest.mark.numbers
def test_threads_draw_apart_and_nothing_of_torchs_own(gemma: DiffusionGemma):
    """As transformers draws: from a generator, where it draws from that of the process."""
    plans = [replace(PLAN, seed=seed) for seed in range(8)]
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def ids(plan: Denoising) -> Any:
        found = gemma.write(context(gemma, "two"), plan)
        return found.ids, found.passes, found.hidden[-1].values.tolist()

    expected = [ids(plan) for plan in plans]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ids, plans)) == expected
    assert torch.equal(torch.get_rng_state(), before)
    given = gemma.read(Prompt((Text(("two",)),))).context.run.ids
    torch.manual_seed(5)
    plain = gemma.model.generate(given, max_new_tokens=20, max_denoising_steps=PLAN.steps)
    written = plain.sequences[0, given.shape[1] :].tolist()
    assert list(expected[5][0][0]) == written[: len(expected[5][0][0])]


def test_passes_of_encoder_and_decoder_are_counted(gemma: DiffusionGemma):
    seen: list[None] = []
    inner = gemma.model.model
    hooks = [
        part.register_forward_pre_hook(lambda *_: seen.append(None))
        for part in (inner.encoder, inner.decoder)
    ]
    found = gemma.write(context(gemma, "two"), PLAN)
    for hook in hooks:
        hook.remove()
    assert found.passes == len(seen)


def test_the_temperature_is_ours_if_it_is_given(gemma: DiffusionGemma):
    own = gemma.write(context(gemma, "two"), PLAN)
    warm = gemma.write(context(gemma, "two"), replace(PLAN, temperature=5.0))
    assert own.ids != warm.ids
    plain = Settings(max_tokens=20)
    assert (
        gemma.write(context(gemma, "two"), plain).words
        == gemma.write(context(gemma, "two"), replace(PLAN, steps=64)).words
    )


@pytest.mark.parametrize(
    "options", [{"block": 4}, {"remask": "margin"}, {"guidance": 1.0}, {"capture": "clean"}]
)
def test_what_its_sampler_does_not_know_is_refused(gemma: DiffusionGemma, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(IncompatibleModels, match=rf"has no {name}\. Leave that out"):
        gemma.write(context(gemma, "two"), replace(PLAN, **options))


def test_vectors_other_layers_and_scores_are_refused(gemma: DiffusionGemma):
    sender = tiny_backbone("llama")
    projector = EmbeddingProjector(source_width=32, target_width=32, hidden=8)
    agents = [Agent("planner", sender), Agent("executor", gemma)]
    with pytest.raises(IncompatibleModels, match="makes its receiver read vectors, but"):
        Pipeline(agents, [Edge("planner", "executor", Embedding(projector))])
    low = gemma.read(Prompt((Text(("a",)),)), needs=frozenset({Need("hidden", 1)})).context
    with pytest.raises(IncompatibleModels, match=r"last layer alone, -1 or 2, but \[1\]"):
        gemma.write(low, PLAN)
    with pytest.raises(IncompatibleModels, match="has no likelihood here"):
        gemma.score(low, ["a"])


@pytest.mark.parametrize("kind", ["text", "embedding"])
def test_it_plans_for_a_causal_executor(gemma: DiffusionGemma, kind: str):
    executor: Backbone = tiny_backbone("llama")
    projector = EmbeddingProjector(source_width=32, target_width=32, hidden=8, scale=0.3)
    channel = TextChannel() if kind == "text" else Embedding(projector)
    role = Role(template="{context}", chat=False)
    planner = Agent("planner", gemma, role=role, settings=PLAN)
    line = Pipeline([planner, Agent("executor", executor)], [Edge("planner", "executor", channel)])
    frames: list[Frame] = []
    with watching(frames.append):
        found = line.run({"context": "It rains.", "question": "Does it?"})
    assert found.turns[0].text is not None
    assert len(frames) == found.turns[0].usage.passes - 2  # two canvases are encoded
    assert all(len(frame.words) == 16 for frame in frames)
