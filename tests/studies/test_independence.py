"""Each study can be taken away, and one can come from another package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.studies.removal import STUDIES, command, import_everything, lint, python, report_on
from tests.studies.removal import without as copy_without

pytestmark = pytest.mark.dist  # every test runs others in a copy of the checkout


@pytest.mark.parametrize("study", STUDIES)
def test_without_a_study_everything_else_works(study: str, tmp_path: Path) -> None:
    """Of the tests that are left the quickest run here; `tests.studies.removal` runs them all."""
    other = "rate" if study == "telephone" else "telephone"
    copy = copy_without(study, tmp_path)
    import_everything(copy)
    lint(copy)
    names = python(copy, *command("recipes", "ls")).split("\n")
    assert any(name.startswith(f"{other} ") for name in names)
    assert "report.html" not in report_on(other, copy)
    tests = "reuse" if study != "reuse" else "rate"
    python(copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/studies/{tests}")
