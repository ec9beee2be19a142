"""The forms for issues are YAML that can be read, with what a form must have."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_read_and_asks(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    asked = [part["attributes"]["label"] for part in form["body"] if part["type"] == "textarea"]
    assert asked
    assert all(label.endswith("?") for label in asked)


def test_there_are_forms() -> None:
    assert len(FORMS) == 2
