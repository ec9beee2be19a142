"""Studies by name, ours and those of other packages, in recipes that list them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unspoken.errors import DataError, MissingExtra, RecipeError, UnknownName
from unspoken.recipe import load_recipe, measurements
from unspoken.recipe.registry import studies, study, study_names
from unspoken.results import read_results, run_again, write_page

GOSSIP = '''
import json
from dataclasses import asdict, dataclass

from unspoken.evaluation.result import Result, about_machine
from unspoken.files import write_text
from unspoken.page import Section
from unspoken.recipe.loading import kept
from unspoken.recipe.parts import Part
from unspoken.recipe.study import Study


class GossipSettings(Part):
    """Who told whom."""

    heard: int = 1


@dataclass(frozen=True)
class GossipReport(Result):
    heard: int


def run_gossip(recipe, settings):
    task = {"name": "people", "protocol": "private", "split": "test", "items": 2}
    about = {"models": [], "task": task, "seed": 0, "notes": kept(recipe), **about_machine()}
    report = GossipReport(heard=settings.heard + 1, **about)
    write_text(recipe.out / "gossip.json", json.dumps(asdict(report)))
    return report


def check_gossip(recipe, settings):
    if settings.heard > len(recipe.agents):
        raise ValueError("there are not so many to hear from")


def sections(report, folder):
    yield Section("gossip", "Gossip", (f"{report.heard} have heard.",))


def summary(report):
    return "Everybody knows."


STUDY = Study(
    name="gossip",
    title="Who has heard?",
    kind="pipeline",
    settings=GossipSettings,
    run=run_gossip,
    file="gossip.json",
    report=GossipReport,
    check=check_gossip,
    section="gossip_of_another",
)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a package of another's on the path that registers studies, as pip would install it."""

    def install(content: str = GOSSIP, **points: str) -> None:
        (tmp_path / "gossip_of_another.py").write_text(content)
        info = tmp_path / "gossip_of_another-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gossip-of-another\nVersion: 1")
        lines = [f"{name} = {place}\n" for name, place in points.items()]
        (info / "entry_points.txt").write_text("[unspoken.studies]\n" + "".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "gossip_of_another", raising=False)

    return install


def test_every_folder_of_studies_is_in_the_registry() -> None:
    home = Path(__file__).parents[2] / "unspoken" / "studies"
    assert sorted(study_names()) == sorted(path.parent.name for path in home.glob("*/__init__.py"))
    for one in studies():
        assert one.run.__module__.startswith(f"unspoken.studies.{one.name}.")
        assert one is study(one.name)


def test_an_unknown_study_is_met_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown study 'telefone'; did you mean 'telephone'"):
        study("telefone")


MINE = """
kind: pipeline
agents:
  - {{name: one, model: none}}
  - {{name: two, model: none}}
  - {{name: three, model: none}}
task: {{name: people}}
out: {out}
studies: {{gossip: {{}}}}
"""


def test_a_study_of_another_package_joins_with_its_settings_and_its_results(
    package: Callable[..., None], tmp_path: Path
) -> None:
    package(gossip="gossip_of_another:STUDY")
    assert study_names()[-1] == "gossip"
    path, out = tmp_path / "mine.yaml", tmp_path / "out"
    path.write_text(MINE.format(out=out))
    (measurement,) = measurements(load_recipe(str(path), ["studies.gossip.heard=3"]), "gossip")
    report = measurement.run()
    (found,) = read_results(out)
    assert (found.study.name, found.report) == ("gossip", report)
    page = write_page(out).read_text(encoding="utf-8")
    for told in ("Who has heard?", "Everybody knows.", "Gossip", "4 have heard."):
        assert told in page
    run_again(out, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "gossip.json").read_text())["heard"] == 4
    with pytest.raises(RecipeError, match=r"studies\.gossip\.heard: .*integer"):
        load_recipe(str(path), ["studies.gossip.heard=much"])
    with pytest.raises(RecipeError, match=r"studies\.gossip: there are not so many"):
        load_recipe(str(path), ["studies.gossip.heard=4"])


def test_another_package_does_not_replace_ours(package: Callable[..., None]) -> None:
    before = study("telephone")
    package(telephone="gossip_of_another:STUDY")
    assert study("telephone") is before
    assert "gossip" not in study_names()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import nothing_of_the_kind\nSTUDY = 1", "No module named 'nothing_of_the_kind'; install"),
        ("", "has no attribute 'STUDY'; install what it needs"),
        ("STUDY = 3", "has to be a Study, but what its package names is of type int; name a Study"),
    ],
)
def test_a_package_that_is_broken_is_named(
    content: str, said: str, package: Callable[..., None], tmp_path: Path
) -> None:
    package(content, gossip="gossip_of_another:STUDY")
    with pytest.raises(
        (MissingExtra, RecipeError), match=rf"the study 'gossip' .*{re.escape(said)}"
    ):
        study("gossip")
    with pytest.raises((MissingExtra, RecipeError), match="the study 'gossip'"):
        load_recipe("relay_projector", ["studies.gossip={}"])
    load_recipe("relay_projector")  # asks for no other study than those that it lists


def test_a_study_without_a_section_shows_nothing(package: Callable[..., None]) -> None:
    package(
        GOSSIP.replace('section="gossip_of_another"', "section=None"),
        gossip="gossip_of_another:STUDY",
    )
    one = study("gossip")
    report: object = None
    assert list(one.sections(report, Path())) == []
    assert one.summary(report) == ""


def test_files_of_studies_that_are_not_here_are_passed_over(
    package: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "rumour.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds no results\.json, .* or \w+\.json"):
        read_results(tmp_path)
