"""Each study can be taken away, and one can come from another package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import Bench, timeless
from tests.studies.removal import ROOT, STUDIES, lint, python, use
from tests.studies.removal import without as copy_without

pytestmark = pytest.mark.dist  # every test runs others in a copy of the checkout


@pytest.mark.parametrize("study", STUDIES)
def test_without_a_study_everything_else_works(study: str, tmp_path: Path) -> None:
    """Of the tests that are left the quickest run here; `tests.studies.removal` runs them all."""
    other = "rate" if study == "telephone" else "telephone"
    copy = copy_without(study, tmp_path)
    lint(copy)
    tests = "reuse" if study != "reuse" else "rate"
    told, page = use(copy, other, f"tests/studies/{tests}")
    assert any(line.startswith(f"{other} ") for line in told)
    assert "report.html" not in page


_ELSEWHERE = """
import sys
from pathlib import Path
from unspoken.recipe import load_recipe, measurements
from unspoken.recipe.registry import study
from unspoken.results import read_results, run_again, write_page
import telephone_of_another

name, again, *settings = sys.argv[1:]
(one,) = measurements(load_recipe(name, settings), "telephone")
assert one.study is study("telephone") is telephone_of_another.STUDY
report = one.run()
(found,) = read_results(one.out)
assert (found.study, found.report) == (one.study, report)
sections = [section.title for section in one.study.sections(report, one.out)]
page = write_page(one.out).read_text(encoding="utf-8")
assert sections and all(title in page for title in sections), sections
run_again(one.out, Path(again))
"""


def test_a_study_moves_to_a_package_of_its_own(bench: Bench, tmp_path: Path) -> None:
    copy, site = copy_without("telephone", tmp_path), tmp_path / "site"
    package, info = site / "telephone_of_another", site / "telephone_of_another-1.0.dist-info"
    package.mkdir(parents=True)
    for path in (ROOT / "unspoken" / "studies" / "telephone").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        moved = text.replace("unspoken.studies.telephone", "telephone_of_another")
        (package / path.name).write_text(moved, encoding="utf-8")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telephone-of-another\nVersion: 1")
    (info / "entry_points.txt").write_text(
        "[unspoken.studies]\ntelephone = telephone_of_another:STUDY\n"
    )
    settings = bench.settings("studies.telephone.hops=2", "comparison.channels=[full-text]")
    again = tmp_path / "again"
    python(copy, "-c", _ELSEWHERE, "telephone", str(again), *settings, path=[site])
    hops = [
        timeless(json.loads((out / "telephone.json").read_text(encoding="utf-8"))["channels"])
        for out in (bench.out, again)
    ]
    assert hops[0] == hops[1]
