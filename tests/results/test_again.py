"""Every number of a page is recomputed by one command with the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench
from tests.studies.edges.test_recipe import settings_of
from tests.studies.teams.test_recipe import TEAM
from unspoken.cli import main
from unspoken.errors import DataError, RecipeError
from unspoken.recipe import load_recipe
from unspoken.recipe.loading import kept as kept_recipe
from unspoken.results import run_again
from unspoken.studies.comparison import run_comparison
from unspoken.studies.edges import EdgesRecipe, run_edges
from unspoken.studies.information import run_information
from unspoken.studies.rate import RateRecipe, run_rate
from unspoken.studies.teams import PlanRecipe, run_plan
from unspoken.studies.telephone import TelephoneRecipe, run_telephone

_ONLY_RELAY = ("reader.", "constant.", "limit=")
_TIMES = {"seconds", "training_seconds", "machine", "recipe"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Bench:
    """A comparison, bits, rates, a plan, a telephone game and a graph in one folder."""
    made = Bench(tmp_path_factory.mktemp("again"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(made.home / "cache"))
        few = ("channels=[text, embedding]", "worth.items=4", "worth.samples=0")
        run_comparison(made.recipe(*few))
        run_information(made.recipe(*few))
        lengths = ("lengths=[2]", f"trained={made.out / 'trained'}")
        recipe = load_recipe("rate", made.settings(*few, *lengths))
        assert isinstance(recipe, RateRecipe)
        run_rate(recipe)
        plan = load_recipe("plan", made.settings(*few, *lengths, TEAM))
        assert isinstance(plan, PlanRecipe)
        run_plan(plan)
        telephone = load_recipe("telephone", made.settings(*few, "hops=2", lengths[1]))
        assert isinstance(telephone, TelephoneRecipe)
        run_telephone(telephone)
        edges = load_recipe("edges", [*settings_of(made.home, folders), "graph=null"])
        assert isinstance(edges, EdgesRecipe)
        run_edges(edges)
    return made


def timeless(content: Any) -> Any:
    """Results without times and places."""
    if isinstance(content, dict):
        return {name: timeless(one) for name, one in content.items() if name not in _TIMES}
    return [timeless(one) for one in content] if isinstance(content, list) else content


def test_one_command_recomputes_every_number(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    again = bench.home / "again"
    main_ended(["report", str(bench.out), "--again", str(again)])
    assert f"wrote {again / 'report.html'}" in capsys.readouterr().out
    for kind in ("results", "worth", "rate", "plan", "telephone", "edges"):
        name = f"{kind}.json"
        one, two = (
            timeless(json.loads((folder / name).read_text(encoding="utf-8")))
            for folder in (bench.out, again)
        )
        assert one == two, name
    with pytest.raises(DataError, match="is there already"):
        run_again(bench.out, again)


def main_ended(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_the_page_shows_what_was_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (bench.out / "report.html").exists()  # who measures makes no page
    main_ended(["report", str(bench.out), "--json"])
    path = Path(json.loads(capsys.readouterr().out)["page"])
    text = path.read_text(encoding="utf-8")
    assert path == bench.out / "report.html"
    for told in ("Gain and content", "Usable bits", "Rate and distortion", "What each side pays"):
        assert told in text
    assert f"unspoken report {bench.out} --again {bench.out}-again" in text


def test_costs_of_agents_add_up_to_those_of_the_item(bench: Bench) -> None:
    for path in (bench.out / "predictions").glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for name in ("read", "written", "passes", "wire"):
                assert sum(one[name] for one in row["costs"].values()) == row["usage"][name]


def test_results_without_a_recipe_are_not_recomputed(bench: Bench, tmp_path: Path) -> None:
    results = bench.results()
    kept = results["notes"].pop("recipe")
    home = tmp_path / "home"
    home.mkdir()
    (home / "results.json").write_text(json.dumps(results))
    with pytest.raises(RecipeError, match=r"`unspoken compare` in .* keep no recipe"):
        run_again(home, tmp_path / "new")
    results["notes"]["recipe"] = {**kept, "limit": -1}
    (home / "results.json").write_text(json.dumps(results))
    with pytest.raises(RecipeError, match="is not of this version"):
        run_again(home, tmp_path / "new")
    settings = [one for one in bench.settings() if not one.startswith(_ONLY_RELAY)]
    results["notes"]["recipe"] = kept_recipe(load_recipe("relay_projector", settings))["recipe"]
    (home / "results.json").write_text(json.dumps(results))
    with pytest.raises(RecipeError, match="does not run a recipe of kind 'projector'"):
        run_again(home, tmp_path / "new")
    assert not (tmp_path / "new").exists()
