"""`python -m examples --tiny`: every tutorial from its first to its last line, without weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT
from tests.real.test_readme import EXAMPLES

MOST = 20  # seconds of a processor


def run(*given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples", *given],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.dist
def test_every_tutorial_runs_tiny():
    told = run("--tiny")
    assert told.returncode == 0, told.stderr
    took = dict(re.findall(r"^== (\w+): (\S+) s of a processor$", told.stdout, re.M))
    assert sorted(took) == [path.stem for path in EXAMPLES]
    assert max(map(float, took.values())) < MOST


@pytest.mark.dist
def test_a_name_that_is_wrong_is_met_with_those_that_are_right():
    told = run("document", "--tiny")
    assert told.returncode == 2
    assert "there is no example 'document'; there are compare, conversation, documents" in (
        told.stderr
    )
