"""SmolLM2 in vLLM, in float32, beside the same weights in transformers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.cases import CASES
from tests.engines.conftest import engine
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, make_channel
from unspoken.engines import VllmModel
from unspoken.evaluation.items import query
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model
from unspoken.tasks import TaskSource, load_task
from unspoken.testing import tiny_backbone
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


def pipeline(model: Model, channel: Channel, sender: Model | None = None) -> Pipeline:
    reader = Agent("reader", sender or model, role=Role("You read a note.", "{context}"))
    role = Role("Answer in one short sentence.", "{messages}Question: {question}")
    solver = Agent("solver", model, role=role, settings=Settings(max_tokens=24))
    return Pipeline([reader, solver], [Edge("reader", "solver", channel)])


@pytest.mark.parametrize("channel", ["text", "handoff"])
def test_answers_are_equal_row_for_row(channel: str, smollm: VllmModel, plain: Backbone):
    made = make_channel(channel, **({"verbatim": True} if channel == "text" else {}))
    found, right = (answers(pipeline(model, made)) for model in (smollm, plain))
    assert found == right
    assert len(set(found)) > ITEMS // 2


@pytest.mark.parametrize("name", ["embedding", "memory", "memory-prompt"])
def test_what_a_small_stranger_projects_is_heard_alike(
    name: str, smollm: VllmModel, plain: Backbone
):
    case = next(one for one in CASES if one.name == name)
    kind, _, width = case.sender.partition(":")
    sender = tiny_backbone(kind, width=int(width or 32))
    made = case.make(sender, plain)
    found, right = (answers(pipeline(model, made, sender)) for model in (smollm, plain))
    assert found == right


def answers(asked: Pipeline) -> list[str]:
    queries = [query(item) for item in load_task(TaskSource()).test[:ITEMS]]
    return [run.answer for run in asked.run_many(queries, batch_size=ITEMS)]


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
