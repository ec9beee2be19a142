"""The headline numbers: they are what their results say, and their stages resume."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shlex import quote

import pytest

from benchmarks.headlines import COMMITTED, HEADLINES, ROOT, STAGES, Stage, code_digest, make
from unspoken.recipe import load_recipe, measurements

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda one: one.words)
def test_a_headline_is_what_its_results_say(headline) -> None:
    paths = [COMMITTED / f"{STAGES[stage].result}.json" for stage in headline.stages]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert headline.said.startswith(headline.value(results))
    assert any(headline.said in page.read_text(encoding="utf-8") for page in PAGES)


def test_there_are_few_and_all_have_a_stage() -> None:
    assert len(HEADLINES) <= 12
    assert {stage for one in HEADLINES for stage in one.stages} == set(STAGES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    gains = readme.partition("## What you gain")[2].partition("\n## ")[0]
    linked = set(re.findall(r"benchmarks/results/([\w-]+)\.json", gains))
    assert linked == {stage.result for stage in STAGES.values()}


@pytest.mark.parametrize("name", STAGES)
def test_its_recipe_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = STAGES[name].command.split()
    if words[0] == "python":
        assert (ROOT / words[1]).exists()
        return
    study = words[words.index("--study") + 1] if "--study" in words else None
    recipe = load_recipe(words[2], [word for word in words if "=" in word])
    (measurement,) = measurements(recipe, study)
    assert STAGES[name].file == f"{recipe.out.name}/{measurement.study.file}"


def planted(name: str, more: str = "", **given) -> Stage:
    """A stage that says that it ran, and writes its result."""
    code = f"import pathlib;pathlib.Path('OUT/ran').open('a').write('{name}');{more}"
    code += f"pathlib.Path('OUT/{name}.json').write_text('0')"
    return Stage(name, f"python -c {quote(code)}", f"{name}.json", **given)


def test_stages_that_are_done_are_not_made_again(tmp_path: Path) -> None:
    stages = {
        "b": planted("b", after="a"),
        "a": planted("a"),
        "t": planted("t", timed=True),
        "c": planted("c", "raise OSError('planted');"),
    }
    ran = tmp_path / "ran"
    with pytest.raises(SystemExit, match="ended with 1"):
        make(stages, stages, tmp_path)
    assert "planted" in (tmp_path / "c.log").read_text()
    assert ran.read_text()[0] == "t"  # what is timed has the machine for itself
    assert "b" not in ran.read_text()
    stages["c"] = planted("c")
    ran.write_text("")
    assert set(make(stages, stages, tmp_path)) == {"b", "c"}
    assert ran.read_text() == "cb"
    assert make(stages, stages, tmp_path) == {}
    (tmp_path / "a.json").unlink()
    assert set(make(["b", "t"], stages, tmp_path)) == set()


def test_other_code_is_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert code_digest() == code_digest()
    before = code_digest()
    monkeypatch.setattr("benchmarks.headlines.ROOT", tmp_path)
    assert code_digest() != before
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("kind: relay")
    assert code_digest() not in {before, code_digest.__doc__}
