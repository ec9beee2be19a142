"""Every number of a page is recomputed by one command with the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.bench import Bench, run_study, timeless
from tests.studies.edges.test_recipe import settings_of
from tests.studies.teams.test_recipe import TEAM
from unspoken.cli import main
from unspoken.errors import DataError, RecipeError
from unspoken.recipe import load_recipe
from unspoken.recipe.loading import recipe_of
from unspoken.recipe.registry import studies
from unspoken.recipe.study import Study
from unspoken.results import run_again


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Bench:
    """A comparison, bits, rates, a plan, a telephone game and a graph in one folder."""
    made = Bench(tmp_path_factory.mktemp("again"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(made.home / "cache"))
        few = ("comparison.channels=[text, embedding]", f"trained={made.out / 'trained'}")
        run_study("comparison", made.recipe(*few))
        run_study("information", made.recipe(*few), items=4, samples=0)
        rate = ("studies.rate.lengths=[2]", "studies.rate.items=4")
        run_study("rate", load_recipe("rate", made.settings(*few, *rate)))
        team = ("studies.teams.lengths=[2]", TEAM)
        run_study("teams", load_recipe("plan", made.settings(*few, *team)))
        hops = "studies.telephone.hops=2"
        run_study("telephone", load_recipe("telephone", made.settings(*few, hops)))
        graph = "studies.edges.graph=null"
        run_study("edges", load_recipe("edges", [*settings_of(made.home, folders), graph]))
    return made


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
    del results["sha256"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "results.json").write_text(json.dumps(results))
    with pytest.raises(RecipeError, match=r"the study 'comparison' in .* keep no recipe"):
        run_again(home, tmp_path / "new")
    for other, told in (
        ({**kept, "seed": "x"}, "is not of this version: .*integer"),
        ({**kept, "kind": "projector"}, "is not of this version: kind: projector is now kind"),
        ({**kept, "sender": {}}, r"is not of this version: sender: moved to pair\.sender"),
        ({**kept, "studies": {"information": {}}}, "lists no study 'comparison'"),
    ):
        results["notes"]["recipe"] = other
        (home / "results.json").write_text(json.dumps(results))
        with pytest.raises(RecipeError, match=told):
            run_again(home, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_results_of_an_earlier_version_are_read_and_say_why_they_are_not_recomputed() -> None:
    committed = Path(__file__).parents[2] / "benchmarks" / "results"
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in committed.glob("*.json")]
    results = [one for one in contents if isinstance(one, dict)]
    written = [one for one in results if "recipe" in one.get("notes", {})]
    older = [one for one in written if "pair" not in one["notes"]["recipe"]]
    assert len(older) == 25
    for content in older:
        assert any(_reads(one, content) for one in studies())
        with pytest.raises(RecipeError, match=r": moved to |is now a study: write kind: "):
            recipe_of(content["notes"]["recipe"])


def _reads(study: Study, content: dict[str, Any]) -> bool:
    try:
        return study.owns(content) and study.read(content).notes == content["notes"]
    except ValidationError:
        return False
