"""docs/which-channel.md says what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unspoken.evaluation.result import markdown_table
from unspoken.kept import opened
from unspoken.studies.fronts import STUDY, FrontsReport
from unspoken.studies.fronts.report import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "which-channel.md"
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("fronts-*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_page_has_the_table_and_the_findings_of_a_result(path: Path) -> None:
    report = STUDY.read(opened(json.loads(path.read_text(encoding="utf-8")), path))
    assert isinstance(report, FrontsReport)
    text = PAGE.read_text(encoding="utf-8")
    assert path.name in text
    assert markdown_table(COLUMNS, report.rows()) in text
    assert all(f"* {line}.\n" in text for line in report.findings())


def test_there_is_a_result() -> None:
    assert RESULTS
