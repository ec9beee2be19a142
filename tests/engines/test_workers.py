"""An agent on vLLM in a process of its own, by the Python of an environment that has it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from unspoken.agents import Agent, Role
from unspoken.channels import Handoff, TextChannel
from unspoken.engines import load_in
from unspoken.executors import Processes
from unspoken.pipeline import Edge, Pipeline
from unspoken.types import EngineName, Settings

pytestmark = pytest.mark.vllm

ITEM = {"context": "Ada keeps the key in a drawer.", "question": "Where is it?"}


def agent(name: str, template: str, model: str, engine: EngineName) -> Agent:
    role = Role(template=template, message="{message}\n", chat=False)
    return Agent(name, load_in(model, engine=engine), role=role, settings=Settings(8))


def test_answers_and_caches_cross(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's cache is computed in one engine, and loaded into another one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    edges = [Edge("reader", "solver", Handoff()), Edge("reader", "solver", TextChannel())]

    def makes(engine: EngineName) -> list[partial[Agent]]:
        return [
            partial(agent, "reader", "{context}", str(folder), engine),
            partial(agent, "solver", "{messages}Q: {question}\nA:", str(folder), engine),
        ]

    with Pipeline(makes("vllm"), edges, executor=Processes(python=sys.executable)) as there:
        found, right = there.run(ITEM), Pipeline(makes("transformers"), edges).run(ITEM)
        assert [turn.text for turn in found.turns] == [turn.text for turn in right.turns]
        assert there.run(ITEM).answer == right.answer
