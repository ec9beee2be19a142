"""What a recipe may say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unspoken.errors import RecipeError, UnknownName
from unspoken.recipe import (
    PipelineRecipe,
    RelayRecipe,
    find_recipe,
    load_recipe,
    recipe_names,
)
from unspoken.recipe.files import chain
from unspoken.studies.comparison import ComparisonSettings
from unspoken.studies.edges import EdgesSettings
from unspoken.studies.fronts import FrontsSettings
from unspoken.studies.information import InformationSettings
from unspoken.studies.planner import PlannerRecipe, PlannerSettings
from unspoken.studies.rate import RateSettings
from unspoken.studies.reuse import ReuseSettings
from unspoken.studies.teams import TeamsSettings
from unspoken.studies.telephone import TelephoneSettings


def test_every_shipped_recipe_is_valid() -> None:
    kinds = {
        name: (type(recipe), *(type(one) for one in recipe.studies.values()))
        for name, recipe in ((name, load_recipe(name)) for name in recipe_names())
    }
    assert kinds == {
        "edges": (PipelineRecipe, EdgesSettings),
        "free": (RelayRecipe, ComparisonSettings, InformationSettings),
        "fronts": (RelayRecipe, FrontsSettings),
        "fusion": (RelayRecipe, ComparisonSettings, InformationSettings),
        "fusion_projector": (RelayRecipe,),
        "graph": (PipelineRecipe, EdgesSettings),
        "memory": (RelayRecipe, ComparisonSettings, InformationSettings),
        "memory_general": (RelayRecipe,),
        "memory_projector": (RelayRecipe,),
        "mixing": (RelayRecipe,),
        "plan": (RelayRecipe, TeamsSettings),
        "planner": (PlannerRecipe,),
        "planner_executor": (RelayRecipe, ComparisonSettings, PlannerSettings),
        "planner_solver": (PipelineRecipe,),
        "rate": (RelayRecipe, RateSettings),
        "relay": (RelayRecipe, ComparisonSettings, InformationSettings),
        "relay_projector": (RelayRecipe,),
        "reuse": (PipelineRecipe, ReuseSettings),
        "ridge": (RelayRecipe,),
        "telephone": (RelayRecipe, TelephoneSettings),
    }


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_begins_with_a_sentence_and_its_command(name: str) -> None:
    head = find_recipe(name).read_text(encoding="utf-8")
    first = head.splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith((".", "?"))
    assert f"recipes/{name}.yaml" in head  # the exact command


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainig.steps=3", "trainig: "),
        ("training.step=3", "training.step: "),
        ("training.steps=soon", "training.steps: .*integer"),
        ("training.steps=-1", "training.steps: .*greater than or equal to 0"),
        ("training.lr=0", "training.lr: .*greater than 0"),
        ("comparison.limit=1", r"comparison\.limit: .*greater than or equal to 2"),
        (
            "comparison.channels=[text, fax]",
            r"comparison\.channels\.1\.name: .*unknown channel 'fax'.*handoff.*\. See",
        ),
        (
            "comparison.channels=[text, embeding]",
            r"comparison\.channels\.1\.name: .*did you mean 'embedding'\?",
        ),
        ("projector.kind=memori", r"projector: .*'memori'; did you mean 'memory'\?"),
        ("projector.hiden=3", r"projector\.hiden: Extra inputs are not permitted"),
        (
            "comparison.channels=[{name: own}]",
            r"comparison\.channels\.0\.settings: .*give either a channel",
        ),
        ("task.protocol=secret", "task.protocol: .*'private', 'shared' or 'closed'"),
        ("seed.x=3", "seed: .*integer"),
        ("pair.sender=gemma-3-270m", r"pair\.sender: "),
        ("studies.telefone={}", r"studies\.telefone: .*did you mean 'telephone'\?"),
        ("studies.information.itms=3", r"studies\.information\.itms: Extra inputs"),
        ("studies.information.items=1", r"studies\.information\.items: .*or equal to 2"),
        ("studies=[rate]", "studies: .*valid dictionary"),
        ("studies.edges={}", r"studies\.edges measures a pipeline, and this is a relay"),
        ("comparison=null", "add comparison: {channels"),
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


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("relay", "kind=projector", "is now kind: relay .*write kind: relay and pair: "),
        ("relay", "kind=rate", r"rate is now a study: .*kind: relay and studies: \{rate: \{len"),
        ("relay", "kind=plan", r"plan is now a study: .*studies: \{teams: "),
        ("relay", "kind=telephone", r"studies: \{telephone: \{hops: "),
        ("relay", "kind=planner_executor", r"studies: \{comparison: \{\}, planner: "),
        ("edges", "kind=edges", r"kind: pipeline and studies: \{edges: "),
        ("edges", "kind=reuse", r"kind: pipeline and studies: \{reuse: "),
        ("relay", "sender.model=x", r"sender: moved to pair\.sender"),
        ("relay", "channels=[text]", r"channels: moved to comparison\.channels"),
        ("relay", "prompts.note_lead=x", "prompts: note_lead is now called note_instructions"),
        ("fusion", "projector.lead=true", "projector: lead is now called opening"),
        ("planner_solver", "agents.0.lead=x", "agents: lead is now called instructions"),
        ("relay", "reader.vectors=2", r"reader: moved to comparison\.reader"),
        ("relay", "worth.column=true", r"studies\.information, and .* studies\.comparison\.bits"),
        ("rate", "sweep.vectors=[4]", r"sweep: moved to studies\.rate\.sweep or"),
        ("plan", "team.budget=4", r"team: moved to studies\.teams\.terms"),
        ("telephone", "hops=2", r"hops: moved to studies\.telephone\.hops"),
        ("planner_executor", "causal.model=x", r"causal: moved to studies\.planner\.causal"),
        ("planner", "planner.canvas=[8]", "planner: moved to teaching"),
        ("edges", "items=4", r"items: moved to studies\.edges\.items"),
        ("reuse", "ladders=[exact]", r"ladders: moved to studies\.reuse\.ladders"),
    ],
)
def test_what_earlier_versions_wrote_is_met_with_its_new_place(
    name: str, override: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=rf"{name}\.yaml: .*{said}"):
        load_recipe(name, [override])


def test_studies_replace_those_of_the_recipe_below(tmp_path: Path) -> None:
    for name in ("relay", "relay_projector"):
        shutil.copy(find_recipe(name), tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("base: relay.yaml\nstudies: {telephone: {hops: 2}}\n")
    assert load_recipe(str(path)).studies == {"telephone": TelephoneSettings(hops=2)}
    more = load_recipe(str(path), ["studies.telephone.hops=3", "studies.comparison={}"])
    assert more.studies == {
        "telephone": TelephoneSettings(hops=3),
        "comparison": ComparisonSettings(),
    }
    assert load_recipe(str(path), ["studies={}"]).studies == {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("executor=pipe", "studies measure agents in this process, got executor=pipe"),
        ("task=null", "studies of a pipeline need a task"),
    ],
)
def test_a_pipeline_that_cannot_be_measured_is_refused(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("edges", [override])
    load_recipe("edges", [override, "studies={}"])


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
    mine, relay = (
        load_recipe(str(tmp_path / "mine.yaml"), ["comparison.limit=null"]),
        load_recipe("relay"),
    )
    assert isinstance(mine, RelayRecipe)
    assert isinstance(relay, RelayRecipe)
    changed = {
        "seed": 7,
        "training": relay.training.model_copy(update={"steps": 5}),
        "comparison": relay.compared.model_copy(update={"limit": None}),
    }
    assert mine == relay.model_copy(update=changed)
    assert [path.name for path in chain(str(tmp_path / "mine.yaml"))] == [
        "mine.yaml",
        "relay.yaml",
        "relay_projector.yaml",
    ]


def test_a_recipe_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    for name in ("relay", "relay.yaml"):
        assert find_recipe(name).name == "relay.yaml"
    with pytest.raises(UnknownName, match="did you mean 'relay'"):
        find_recipe("relya")
