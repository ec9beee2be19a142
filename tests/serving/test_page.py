"""docs/serve.md: its code runs against a server and prints what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.docs.test_agents import examples, printed
from tests.serving.conftest import Running, served
from unspoken.agents import Agent, Edge
from unspoken.channels import TextChannel
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds
from unspoken.testing import ScriptedModel

PAGE = examples("python", "serve.md")


@pytest.fixture(scope="module")
def team() -> Iterator[Running]:
    agents = [
        Agent("clerk", ScriptedModel(lambda _: "upstairs")),
        Agent("solver", ScriptedModel(lambda _: "In the attic.")),
    ]
    pipeline = Pipeline(agents, [Edge("clerk", "solver", TextChannel())])
    with served({"team": pipeline}, (), Bounds()) as found:
        yield found


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("n", range(len(PAGE)))
def test_the_code_of_the_page_runs(team: Running, names: dict[str, Any], n: int) -> None:
    code, said = PAGE[n]
    told = printed(code.replace("http://127.0.0.1:8000", team.url), names)
    assert told.rstrip() == said.rstrip()
    assert said


def test_each_client_takes_ten_lines() -> None:
    assert len(PAGE) == 5
    assert all(len(code.splitlines()) <= 10 for code, _ in PAGE)
