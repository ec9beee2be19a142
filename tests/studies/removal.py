"""A checkout without one study: whatever else needs that study breaks there.

    python -m tests.studies.removal telephone
    python -m tests.studies.removal

The second line takes every study away in turn. Each copy runs all tests but those that name the
study that is gone; see `minutes` of what is printed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

__all__ = ["ROOT", "STUDIES", "lint", "python", "use", "without"]

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in (ROOT / "unspoken" / "studies").glob("*/__init__.py"))

_COPIED = ("unspoken", "tests", "recipes", "benchmarks", "docs", "pyproject.toml", "README.md")
_SKIPPED = shutil.ignore_patterns("__pycache__", ".*")
_RESULTS = {
    "comparison": ("relay-qasc.json", "results.json"),
    "edges": ("edges-qasc.json", "edges.json"),
    "fronts": ("fronts-paragraphs.json", "fronts.json"),
    "information": ("worth-qasc.json", "worth.json"),
    "rate": ("rate-qasc.json", "rate.json"),
    "reuse": ("reuse-gsm8k.json", "results.json"),
    "teams": ("plan-qasc.json", "plan.json"),
    "telephone": ("telephone-qasc.json", "telephone.json"),
}


def without(study: str, home: Path) -> Path:
    """A copy of this checkout, the folders of the study and its line in the registry taken away."""
    copy = home / "checkout"
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=_SKIPPED)
        else:
            shutil.copyfile(source, copy / name)
    shutil.rmtree(copy / "unspoken" / "studies" / study)
    shutil.rmtree(copy / "tests" / "studies" / study)
    registry = copy / "unspoken" / "recipe" / "registry.py"
    lines = registry.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if f'"unspoken.studies.{study}:STUDY"' not in line]
    assert len(kept) == len(lines) - 1
    registry.write_text("".join(kept), encoding="utf-8")
    return copy


def python(copy: Path, *arguments: str, path: Sequence[Path] = (), stop: bool = True) -> str:
    """Run python in a copy, and say what it printed; `path` is put before all other packages."""
    places = os.pathsep.join(str(place) for place in (copy, *path))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not stop or done.returncode == 0, done.stdout
    return done.stdout


def command(*arguments: str) -> tuple[str, str]:
    """Our command line, as arguments of python."""
    return "-c", f"from unspoken.cli import main; main({list(arguments)!r})"


_EVERYTHING = """
import pkgutil
from importlib import import_module
import unspoken
for module in pkgutil.walk_packages(unspoken.__path__, "unspoken."):
    import_module(module.name)
print(unspoken.__file__)
"""


def import_everything(copy: Path) -> None:
    """Import every module that is left, of this copy and of no other place."""
    assert python(copy, "-c", _EVERYTHING).strip().endswith(str(copy / "unspoken" / "__init__.py"))


_ONE_BY_ONE = """
import sys
import pytest
from unspoken.cli import main

folder, *options = sys.argv[1:]
for arguments in (["recipes", "ls"], ["report", folder]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
sys.exit(pytest.main(options))
"""


def use(copy: Path, study: str, *tests: str) -> tuple[list[str], str]:
    """Import every module, list the recipes, report on a study and run tests, in one process.

    Returns the lines that were printed and the page of the study.
    """
    folder = _result(study, copy)
    options = ("-q", "-x", "-p", "no:cacheprovider", "--assert=plain", *tests)
    told = python(copy, "-c", _EVERYTHING + _ONE_BY_ONE, str(folder), *options).splitlines()
    assert told[0] == str(copy / "unspoken" / "__init__.py")
    return told, (folder / "report.html").read_text(encoding="utf-8")


def lint(copy: Path) -> None:
    """Check the laws of imports."""
    told = python(copy, "-c", "from importlinter.cli import lint_imports_command as run; run()")
    assert " 0 broken" in told


def report_on(study: str, copy: Path) -> str:
    """Make a page of a committed result of a study, and say what stands on it."""
    folder = _result(study, copy)
    assert "wrote" in python(copy, *command("report", str(folder)))
    return (folder / "report.html").read_text(encoding="utf-8")


def _result(study: str, copy: Path) -> Path:
    """A folder with the committed result of a study."""
    committed, name = _RESULTS[study]
    folder = copy / "out" / study
    folder.mkdir(parents=True)
    shutil.copyfile(copy / "benchmarks" / "results" / committed, folder / name)
    return folder


def other_tests(study: str, copy: Path) -> list[str]:
    """The test files of a copy that do not name the study, nor import one that does."""
    naming = re.compile(
        rf"unspoken\.studies(\.{study}\b| import .*\b{study}\b)|tests\.pages\b"
        rf'|(run_study|measurements)\([^)]*"{study}"'
    )
    own = re.compile(rf"tests\.studies\.{study}\b")
    files = sorted((copy / "tests").rglob("test_*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    return [
        str(path.relative_to(copy))
        for path, text in texts.items()
        if not naming.search(text) and not own.search(text)
    ]


def check(study: str) -> None:
    """All of it, with every test that is left."""
    start = perf_counter()
    with tempfile.TemporaryDirectory() as home:
        copy = without(study, Path(home))
        import_everything(copy)
        lint(copy)
        assert python(copy, *command("recipes", "ls"))
        for other in _RESULTS.keys() - {study}:
            report_on(other, copy)
        options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile")
        told = python(copy, *options, *other_tests(study, copy), stop=False).splitlines()
    failed = [line for line in told if line.startswith(("FAILED", "ERROR"))]
    minutes = (perf_counter() - start) / 60
    print(f"without {study}: {told[-1].strip('= ')}, {minutes:.1f} minutes", *failed, sep="\n  ")


if __name__ == "__main__":
    for name in sys.argv[1:] or STUDIES:
        check(name)
