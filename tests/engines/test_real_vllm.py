"""SmolLM2 in vLLM, in float32, beside the same weights in transformers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.conftest import engine
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import make_channel
from unspoken.engines import VllmModel
from unspoken.evaluation.items import query
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model
from unspoken.tasks import TaskSource, load_task
from unspoken.types import Settings

pytestmark = [pytest.mark.vllm, pytest.mark.real]

NAME, ITEMS = "smollm2-135m-instruct", 24


@pytest.fixture(scope="module")
def plain() -> Backbone:
    return Backbone.from_pretrained(NAME, dtype="float32")


@pytest.fixture(scope="module")
def smollm() -> Iterator[VllmModel]:
    with engine(NAME, dtype="float32") as model:
        yield model


def pipeline(model: Model, channel: str) -> Pipeline:
    reader = Agent("reader", model, role=Role("You read a note.", "{context}"))
    role = Role("Answer in one short sentence.", "{messages}Question: {question}")
    solver = Agent("solver", model, role=role, settings=Settings(max_tokens=24))
    options = {"verbatim": True} if channel == "text" else {}
    return Pipeline([reader, solver], [Edge("reader", "solver", make_channel(channel, **options))])


@pytest.mark.parametrize("channel", ["text", "handoff"])
def test_answers_are_equal_row_for_row(channel: str, smollm: VllmModel, plain: Backbone):
    queries = [query(item) for item in load_task(TaskSource()).test[:ITEMS]]
    found, right = (
        [run.answer for run in pipeline(model, channel).run_many(queries, batch_size=ITEMS)]
        for model in (smollm, plain)
    )
    assert found == right
    assert len(set(found)) > ITEMS // 2


def test_scores_are_equal(smollm: VllmModel, plain: Backbone):
    items = load_task(TaskSource()).test[:ITEMS]
    fields = {
        name: tuple(getattr(item, name) for item in items) for name in ("context", "question")
    }
    answers = [f" {item.answers[0]}" for item in items]
    role = Role("Answer.", "{context}\n{question}")
    found, right = (
        model.score(Agent("a", model, role=role).read(fields).context, answers)
        for model in (smollm, plain)
    )
    assert float((found - right).abs().max()) < 1e-2
