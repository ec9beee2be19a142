"""docs/serve.md: its code runs against a server and prints what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.docs.blocks import Block, blocks, printed
from tests.serving.conftest import Running, served
from unspoken.agents import Agent, Edge
from unspoken.channels import TextChannel
from unspoken.pipeline import Pipeline
from unspoken.serving import Bounds
from unspoken.testing import ScriptedModel

BLOCKS = blocks("docs/serve.md", "python")


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


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_code_of_the_page_runs(team: Running, names: dict[str, Any], block: Block) -> None:
    told = printed(block.code.replace("http://127.0.0.1:8000", team.url), str(block), names)
    assert told.rstrip() == block.said.rstrip()
    assert block.said


def test_each_client_takes_ten_lines() -> None:
    assert len(BLOCKS) == 5
    assert all(len(block.code.splitlines()) <= 10 for block in BLOCKS)
