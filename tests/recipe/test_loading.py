"""What a recipe may say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unspoken.errors import (
    RecipeError,
    UnknownName,
)
from unspoken.recipe import (
    PipelineRecipe,
    ProjectorRecipe,
    RelayRecipe,
    find_recipe,
    load_recipe,
    recipe_names,
)
from unspoken.recipe.files import chain
from unspoken.studies.edges import EdgesRecipe
from unspoken.studies.planner import PlannerExecutorRecipe, PlannerRecipe
from unspoken.studies.rate import RateRecipe
from unspoken.studies.reuse import ReuseRecipe
from unspoken.studies.teams import PlanRecipe
from unspoken.studies.telephone import TelephoneRecipe


def test_every_shipped_recipe_is_valid() -> None:
    kinds = {name: type(load_recipe(name)) for name in recipe_names()}
    assert kinds == {
        "edges": EdgesRecipe,
        "free": RelayRecipe,
        "fusion": RelayRecipe,
        "fusion_projector": ProjectorRecipe,
        "graph": EdgesRecipe,
        "memory": RelayRecipe,
        "memory_projector": ProjectorRecipe,
        "mixing": ProjectorRecipe,
        "plan": PlanRecipe,
        "planner": PlannerRecipe,
        "planner_executor": PlannerExecutorRecipe,
        "planner_solver": PipelineRecipe,
        "rate": RateRecipe,
        "relay": RelayRecipe,
        "relay_projector": ProjectorRecipe,
        "reuse": ReuseRecipe,
        "ridge": ProjectorRecipe,
        "telephone": TelephoneRecipe,
    }
    for name in recipe_names():
        head = find_recipe(name).read_text(encoding="utf-8")
        assert head.startswith("# ")
        assert f"recipes/{name}.yaml" in head  # the exact command


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainig.steps=3", "trainig: "),
        ("training.step=3", "training.step: "),
        ("training.steps=soon", "training.steps: .*integer"),
        ("training.steps=-1", "training.steps: .*greater than or equal to 0"),
        ("training.lr=0", "training.lr: .*greater than 0"),
        ("limit=1", "limit: .*greater than or equal to 2"),
        ("channels=[text, fax]", r"channels\.1\.name: .*unknown channel 'fax'.*handoff.*\. See"),
        ("channels=[text, embeding]", r"channels\.1\.name: .*did you mean 'embedding'\?"),
        ("projector.kind=memori", r"projector: .*'memori'; did you mean 'memory'\?"),
        ("projector.hiden=3", r"projector\.hiden: Extra inputs are not permitted"),
        ("channels=[{name: own}]", r"channels\.0\.settings: .*give either a channel"),
        ("task.protocol=secret", "task.protocol: .*'private', 'shared' or 'closed'"),
        ("seed.x=3", "seed: .*integer"),
        ("sender=gemma-3-270m", "sender: "),
        ("kind=relais", "kind: .*'relay'"),
        ("out", "out: "),
        ("novelty", "novelty: "),
        ("a={b", "cannot be read with"),
        ("out=${nope}", "cannot be read with .*nope"),
    ],
)
def test_a_wrong_setting_is_named(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as refused:
        load_recipe("relay", [override])
    assert "\n" not in str(refused.value)
    assert "relay.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [1", "cannot be read"),
        ("- 1\n- 2\n", "a mapping of settings"),
        ("base: none.yaml\nkind: relay\n", "none.yaml"),
        ("base: own.yaml\nkind: relay\n", "recursion"),
        ("just words", "kind: "),
        ("", "kind: "),
        ("seed: 1\n", "kind: "),
        ("kind: pipeline\n", "agents: Field required"),
        ("kind: pipeline\nagents: [{name: a}]\n", "agents.0.model: Field required"),
        (
            "kind: pipeline\nagents: []\nedges: [{from: a, channel: {}}]\n",
            "edges.0.to: Field required",
        ),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=said) as refused:
        load_recipe(str(path))
    assert "own.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_overrides_reach_into_lists() -> None:
    recipe = load_recipe("planner_solver", ["edges.0.channel={kind: handoff}", "agents.1.model=m"])
    assert isinstance(recipe, PipelineRecipe)
    assert recipe.edges[0].channel == {"kind": "handoff"}
    assert [agent.model for agent in recipe.agents] == ["smollm2-135m-instruct", "m"]
    with pytest.raises(RecipeError, match="agents"):
        load_recipe("planner_solver", ["agents.7.model=m"])


def test_a_recipe_continues_those_beside_it(tmp_path: Path) -> None:
    for name in ("relay", "relay_projector"):
        shutil.copy(find_recipe(name), tmp_path)
    (tmp_path / "mine.yaml").write_text("base: relay.yaml\nseed: 7\ntraining: {steps: 5}\n")
    mine, relay = load_recipe(str(tmp_path / "mine.yaml"), ["limit=null"]), load_recipe("relay")
    assert isinstance(mine, RelayRecipe)
    assert isinstance(relay, RelayRecipe)
    changed = {"seed": 7, "training": relay.training.model_copy(update={"steps": 5}), "limit": None}
    assert mine == relay.model_copy(update=changed)
    assert [path.name for path in chain(str(tmp_path / "mine.yaml"))] == [
        "mine.yaml",
        "relay.yaml",
        "relay_projector.yaml",
    ]


def test_a_recipe_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    for name in ("relay", "relay.yaml", "recipes/relay.yaml"):
        assert find_recipe(name).name == "relay.yaml"
    with pytest.raises(UnknownName, match="did you mean 'relay'"):
        find_recipe("relya")
