"""Pipelines by recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unspoken.agents import Role
from unspoken.channels import TextChannel
from unspoken.errors import (
    IncompatibleModels,
    MissingExtra,
    PipelineError,
    RecipeError,
    UnknownName,
)
from unspoken.recipe import (
    PipelineRecipe,
    load_recipe,
)
from unspoken.recipe.pipeline import build, session_of
from unspoken.sessions import Distilled, Recent

PIPELINE = """
kind: pipeline
rounds: 2
agents:
  - {{name: one, model: "{model}", max_tokens: 3}}
  - {{name: two, model: "{model}", max_tokens: 5, stop: [zz], template: "{{messages}}{{question}}"}}
edges:
  - {{from: one, to: two, channel: {channel}}}
"""


def pipeline(folder: Path, model: Path, channel: str) -> PipelineRecipe:
    path = folder / "own.yaml"
    path.write_text(PIPELINE.format(model=model, channel=channel))
    found = load_recipe(str(path))
    assert isinstance(found, PipelineRecipe)
    return found


def test_a_pipeline_is_built_as_its_recipe_says(tmp_path: Path, folders: dict[str, Path]) -> None:
    line = build(pipeline(tmp_path, folders["receiver"], "{kind: text, limit: 2}"))
    assert line.agents["one"].model is line.agents["two"].model  # loaded once
    assert line.rounds == 2
    assert line.agents["two"].settings.stop == ("zz",)
    channel = line.edges[0].channel
    assert isinstance(channel, TextChannel)
    assert channel.limit == 2
    turns = [(turn.agent, turn.round) for turn in line.run("why?").turns]
    assert turns == [("one", 1), ("one", 2), ("two", 2)]  # nobody hears what two says at first


def test_a_recipe_says_how_documents_are_shown(tmp_path: Path, folders: dict[str, Path]) -> None:
    recipe = pipeline(tmp_path, folders["receiver"], "{kind: text}")
    settings = ['agents.1.template="{messages}{notes}"', 'agents.1.document="<{name}>{text}"']
    found = load_recipe(str(tmp_path / "own.yaml"), settings)
    assert isinstance(found, PipelineRecipe)
    role = build(found).agents["two"].role
    assert (role.document, role.fields) == ("<{name}>{text}", ("notes",))
    assert build(recipe).agents["two"].role.document == Role().document
    with pytest.raises(PipelineError, match=r"document format .* must hold \{text\}"):
        build(load_recipe(str(tmp_path / "own.yaml"), ["agents.1.document='{name}'"]))


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        (["agents.1.engine=llama"], RecipeError, "'transformers' or 'vllm'"),
        (["agents.1.engine=vllm", "device=cpu"], IncompatibleModels, "leave device out"),
        (["agents.1.engine=vllm"], MissingExtra, "make vllm"),
    ],
)
def test_a_recipe_names_an_engine_that_is_there(
    tmp_path: Path,
    folders: dict[str, Path],
    settings: list[str],
    error: type[Exception],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "vllm", None)  # it cannot be imported
    monkeypatch.setitem(sys.modules, "vllm.distributed.kv_transfer", None)
    recipe = pipeline(tmp_path, folders["receiver"], "{kind: text}")
    assert [agent.engine for agent in recipe.agents] == ["transformers"] * 2
    with pytest.raises(error, match=reason):
        build(load_recipe(str(tmp_path / "own.yaml"), settings))


@pytest.mark.parametrize(
    ("channel", "error", "said"),
    [
        ("{limit: 2}", RecipeError, "has no kind; add for example kind: text"),
        ("{kind: txt}", UnknownName, "did you mean 'text'"),
        ("{kind: text, limit: 0}", RecipeError, "'text' cannot be made with .*a number of tokens"),
        ("{kind: text, colour: red}", RecipeError, "'text' cannot be made with .*colour"),
        ("{kind: text, limt: 4}", RecipeError, "'text' has no setting 'limt'; did you .*'limit'"),
        ("{kind: text, limit: few}", RecipeError, "'text' cannot be made with .*limit is 'few'"),
        ("{kind: embedding, projector: /none/at/all}", RecipeError, "/none/at/all"),
    ],
)
def test_a_channel_that_cannot_be_made_is_refused(
    channel: str, error: type[Exception], said: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(error, match=said):
        build(pipeline(tmp_path, folders["receiver"], channel))


@pytest.mark.dist
def test_a_pipeline_runs_elsewhere_by_one_setting(tmp_path: Path, folders: dict[str, Path]) -> None:
    recipe = pipeline(tmp_path, folders["receiver"], "{kind: handoff}")
    here = build(recipe).run("why?")
    with build(recipe.model_copy(update={"executor": "shared_memory", "timeout": 60})) as line:
        run = line.run("why?")
    assert [(t.agent, t.text, t.usage.wire) for t in run.turns] == [
        (t.agent, t.text, t.usage.wire) for t in here.turns
    ]


@pytest.mark.parametrize(("keep", "made"), [("recent", Recent()), ("distilled", Distilled())])
def test_a_recipe_says_how_a_conversation_is_held(
    keep: str, made: Recent | Distilled, tmp_path: Path, folders: dict[str, Path]
) -> None:
    pipeline(tmp_path, folders["receiver"], "{kind: text}")
    found = load_recipe(str(tmp_path / "own.yaml"), [f"session.keep={keep}", "session.window=200"])
    assert isinstance(found, PipelineRecipe)
    with session_of(found, build(found)) as talk:
        assert (talk._window.keep, talk._window.positions) == (made, 200)  # pyright: ignore
        left = [talk.run(f"why is it number {n}?").left_out for n in range(5)]
    assert not left[0]
    assert left[-1]


def test_a_recipe_with_another_way_to_keep_is_refused(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    pipeline(tmp_path, folders["receiver"], "{kind: text}")
    with pytest.raises(RecipeError, match=r"session.keep.*'recent' or 'distilled'"):
        load_recipe(str(tmp_path / "own.yaml"), ["session.keep=all"])
