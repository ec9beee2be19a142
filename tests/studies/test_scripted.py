"""A model without weights takes part in every study that reads and scores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from unspoken.agents import Agent, Edge, Role
from unspoken.anchors import AnchorPool
from unspoken.channels import TextChannel, make_channel
from unspoken.errors import IncompatibleModels
from unspoken.evaluation.statistics import difference
from unspoken.pipeline import Pipeline
from unspoken.protocols import fillable, movable, rolls_out, tabled
from unspoken.studies.comparison import compare
from unspoken.studies.edges import weigh_edges
from unspoken.studies.fronts import fronts
from unspoken.studies.information import measure_information
from unspoken.studies.rate import rates
from unspoken.studies.teams import Terms, plan_team
from unspoken.studies.telephone import Players, play
from unspoken.tasks import Task, TaskSource, load_task
from unspoken.testing import ScriptedModel
from unspoken.types import Settings

ASKED = "{messages}Question: {question}\nAnswer:"


def script(words: str) -> str:
    """Reads a person's job out of what stands before the question."""
    if "Note:" in words:
        return " " + words.rpartition("Fact:")[2].partition("Note:")[0].strip() + "\n"
    found = re.findall(r"works as an? (\w+)", words)
    return f" {found[-1]}\n" if found else " nobody knows\n"


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(script)


@pytest.fixture
def task() -> Task:
    found = load_task(TaskSource(name="people", size=60, validation=20))
    jobs = [item for item in found.test if item.id.endswith("job")][:12]
    few = [item for item in found.validation if item.id.endswith("job")]
    assert len(few) > 2
    return Task(
        found.name, found.train, tuple(few), tuple(jobs), found.files, found.overlap, found.protocol
    )


def reader(model: ScriptedModel) -> Agent:
    return Agent("sender", model, role=Role(template=" {context}", chat=False))


def solver(model: ScriptedModel) -> Agent:
    role = Role("Answer.\n", ASKED, "Fact:{message}\n", chat=False)
    return Agent("receiver", model, role=role, settings=Settings(max_tokens=20, stop=("\n",)))


def pair(model: ScriptedModel, limit: int | None = None) -> Pipeline:
    channel = TextChannel(verbatim=True, limit=limit)
    return Pipeline([reader(model), solver(model)], [Edge("sender", "receiver", channel)])


def writer(model: ScriptedModel) -> Agent:
    role = Role(template="Fact: {context}\nNote:", chat=False)
    return Agent("sender", model, role=role, settings=Settings(max_tokens=99, stop=("\n",)))


def test_it_holds_no_torch_module(model: ScriptedModel):
    held = [part for part in vars(model).values() if isinstance(part, torch.nn.Module)]
    assert not held
    assert not hasattr(model, "model")


def test_it_is_compared(model: ScriptedModel, task: Task, tmp_path: Path):
    report = compare({"text": pair(model)}, task, limit=12, out=str(tmp_path))
    assert report.arm("text", "matched").accuracy == 1
    assert report.arm("text", "none").accuracy == report.arm("text", "deranged").accuracy == 0
    assert report.worth("text").content.low > 0.5


def test_its_messages_are_worth_bits(model: ScriptedModel, task: Task, tmp_path: Path):
    report = measure_information(
        {"text": pair(model)}, task, items=8, writer=writer(model), limit=12, out=str(tmp_path)
    )
    (found,) = report.channels
    assert found.bits.value > 1
    assert found.deranged.value < 0
    assert report.spoken is not None
    assert report.spoken.bits.value > 1


def test_its_messages_are_cut(model: ScriptedModel, task: Task, tmp_path: Path):
    curve = {"10 tokens": pair(model, 10), "whole": pair(model)}
    report = rates({"text": curve}, task, items=8, limit=12, out=str(tmp_path))
    assert [point.distortion for point in report.points] == [1, 0]


def test_its_edges_are_weighed(model: ScriptedModel, task: Task, tmp_path: Path):
    guesser = Agent("guesser", model, role=Role(template="{question}", chat=False))
    edges = [
        Edge("sender", "receiver", TextChannel(verbatim=True)),
        Edge("guesser", "receiver", TextChannel()),
    ]
    line = Pipeline([reader(model), guesser, solver(model)], edges)
    report = weigh_edges(line, task, items=8, limit=8, out=str(tmp_path))
    assert [edge.gain_bits.value > 1 for edge in report.edges] == [True, False]


def test_a_team_of_it_is_planned(model: ScriptedModel, task: Task, tmp_path: Path):
    alone = Agent(
        "sender", model, role=Role("Answer.\n", "Fact: {context}\n" + ASKED[10:], chat=False)
    )
    terms = Terms(budgets=(4, 20, 200), leaf=200, budget=400)
    report = plan_team(
        {"text": {"whole": pair(model)}}, Pipeline([alone]), task, terms, limit=8, out=str(tmp_path)
    )
    assert report.votes[0].measured == 1


def test_it_passes_facts_on(model: ScriptedModel, task: Task, tmp_path: Path):
    role = Role("Restate.\n", "{messages}Note:", "Fact:{message}\n", chat=False)
    restating = Agent("receiver", model, role=role, settings=Settings(max_tokens=120, stop=("\n",)))
    line = Players(
        pair(model),
        Pipeline(
            [reader(model), restating], [Edge("sender", "receiver", TextChannel(verbatim=True))]
        ),
    )
    report = play({"text": line}, task, hops=3, limit=8, out=str(tmp_path))
    assert [hop.matched.accuracy for hop in report.channels["text"]] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["handoff", "rollout", "layers", "soft"])
def test_what_it_cannot_do_is_refused_when_a_pipeline_is_made(kind: str, model: ScriptedModel):
    with pytest.raises(IncompatibleModels, match=r"use a causal model|channel 'text'"):
        Pipeline([reader(model), solver(model)], [Edge("sender", "receiver", make_channel(kind))])


def test_what_needs_weights_says_so(model: ScriptedModel):
    with pytest.raises(IncompatibleModels, match=r"a pool serves readers of a cache, and 'script'"):
        pair(model).served_by(AnchorPool())
    for ask in (movable, rolls_out, fillable, tabled):
        with pytest.raises(IncompatibleModels, match=r"this needs.* 'script'"):
            ask(model, "this needs")


def test_it_is_asked_and_timed_for_a_front(model: ScriptedModel, task: Task):
    noted = Pipeline([writer(model), solver(model)], [Edge("sender", "receiver", TextChannel())])
    report = fronts({"full-text": pair(model), "note": noted}, task, timed=2, batch_size=4)
    text, note = report.arms
    assert (text.kind, text.accuracy, text.none.accuracy) == ("verbatim", 1.0, 0.0)
    assert (note.kind, note.accuracy, note.deranged.accuracy) == ("words", 1.0, 0.0)
    assert (text.sender_read, text.sender_written) == (0, 0)
    assert note.sender_written > 10
    assert "no latent channel is on the front. None was asked" in report.findings()[0]


def test_controls_of_a_front_are_asked_about_some_items(model: ScriptedModel, task: Task):
    report = fronts({"full-text": pair(model)}, task, timed=1, controls=3, batch_size=4)
    (text,) = report.arms
    assert (text.matched.n, text.none.n, text.deranged.n) == (len(task.test), 3, 3)
    assert text.content == difference([True] * 3, [False] * 3) == text.gain
    assert f"The controls were asked about 3 of the {len(task.test)} items." in report.about
    whole = fronts({"full-text": pair(model)}, task, timed=1, batch_size=4)
    assert whole.arms[0].none.n == len(task.test)
    assert "The controls were asked" not in whole.about
