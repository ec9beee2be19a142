"""The wheel and the sdist: built from this tree, they hold what users need, and work elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import unspoken
from unspoken import Agent, Pipeline
from unspoken.testing import tiny_backbone
run = Pipeline([Agent("solver", tiny_backbone())]).run("Where is the key?")
print(unspoken.__file__, run.usage.written > 0)
"""

pytestmark = pytest.mark.dist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("built")
    _run("-m", "hatchling", "build", "-d", str(home), cwd=ROOT)
    return home


def _run(*command: str, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_where_there_is_no_clone(built: Path, tmp_path: Path):
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "unspoken" / "py.typed").is_file()
    assert (site / "unspoken" / "serving" / "page" / "main.js").is_file()
    told = _run("-c", ASK, cwd=tmp_path, path=str(site))
    assert told == f"{site / 'unspoken' / '__init__.py'} True\n"
    listed = _run("-m", "unspoken", "recipes", "ls", "--json", cwd=tmp_path, path=str(site))
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f'"{recipe.stem}"' in listed


def test_the_sdist_has_the_sources_and_the_examples(built: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("unspoken/cli.py", "recipes/relay.yaml", "examples/two_agents.py", "README.md"):
        assert path in names


def test_the_index_would_take_both(built: Path):
    told = _run("-m", "twine", "check", "--strict", *map(str, built.iterdir()), cwd=built)
    assert told.count("PASSED") == 2
