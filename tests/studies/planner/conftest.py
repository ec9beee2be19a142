"""A tiny model and a task for planner and executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.studies.planner.recipes import written
from unspoken.backbone import Backbone


@pytest.fixture
def settings(tmp_path: Path, tiny: Callable[..., Backbone]) -> list[str]:
    return written(tmp_path, tiny("llama"))
