"""A comparison of dense reads with pools, by recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import run_study
from unspoken.kept import digested
from unspoken.recipe import load_recipe
from unspoken.results import write_page
from unspoken.studies.reuse import ReuseReport
from unspoken.testing import tiny_backbone

RECIPE = """
kind: pipeline
out: {out}
task: {{name: people, protocol: shared, size: 40, validation: 8}}
agents:
  - name: planner
    model: {model}
    instructions: You plan.
    template: "{{context}} {{question}} Plan:"
    max_tokens: 12
  - name: judge
    model: {model}
    instructions: You judge with care.
    template: "{{context}} {{question}} {{messages}} So:"
    max_tokens: 12
    candidates: [" yes", " no"]
edges: [{{from: planner, to: judge, channel: {{kind: text}}}}]
limit: 4
batch_size: 1
studies: {{reuse: {{ladders: [exact, shifted, anchored], pool: {{probe: 0.5, tolerance: 1.0e+9}}}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    model = tiny_backbone("llama")
    model.model.config.max_position_embeddings = 2048
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "reuse.yaml"
    path.write_text(RECIPE.format(out=tmp_path / "out", model=tmp_path / "model"))
    return path


def measured(recipe: Path, *more: str) -> ReuseReport:
    found = load_recipe(str(recipe), more)
    return run_study("reuse", found)


def test_compare_tells_what_reuse_saves_and_changes(recipe: Path, tmp_path: Path):
    told = json.loads(json.dumps(measured(recipe).to_dict()))
    arms = {arm["way"]: arm for arm in told["arms"]}
    assert list(arms) == ["dense", "exact", "shifted", "anchored"]
    assert arms["dense"]["reused"] == 0
    assert arms["exact"]["agreement"] == {"planner": 1.0, "judge": 1.0}
    assert arms["exact"]["accuracy"] == arms["dense"]["accuracy"]
    assert arms["shifted"]["reused"] > arms["exact"]["reused"] > 0
    assert arms["shifted"]["pool"]["probes"]["candidates"] in (0.0, 0.5, 1.0)
    assert all(arm["request"] > 0 for arm in arms.values())
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text()) == digested(told)
    assert "exact" in (out / "report.md").read_text()
    page = write_page(out).read_text()
    for shown in ("What does reading once save?", "Dense reads and pools", "anchored", "--again"):
        assert shown in page
    rows = (out / "predictions" / "shifted.jsonl").read_text().splitlines()
    assert len(rows) == 4
    assert [turn["agent"] for turn in json.loads(rows[0])["turns"]] == ["planner", "judge"]


def test_the_table_names_every_way(recipe: Path):
    report = measured(recipe, "limit=2", "studies.reuse.ladders=[exact]")
    table = report.table()
    assert list(table.columns[0].cells) == ["dense", "exact"]
    assert report.findings() == ["exact: same words as dense: planner 100%, judge 100%"]
