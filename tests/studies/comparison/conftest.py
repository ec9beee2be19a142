"""A comparison that is made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bench import Bench, run_study
from unspoken.studies.comparison import Report


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, Report]:
    """A whole comparison, made once; tests that change files copy it first."""
    bench = Bench(tmp_path_factory.mktemp("finished"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_study("comparison", bench.recipe())


@pytest.fixture
def copied(finished: tuple[Bench, Report], bench: Bench) -> Bench:
    """The finished comparison, in a folder of this test's own."""
    shutil.copytree(finished[0].out, bench.out)
    return bench
