"""Results keep which files have made them, and the ones that other code has made are named."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unspoken.cli import main
from unspoken.evaluation import freshness as module
from unspoken.evaluation.freshness import code_in_use, freshness
from unspoken.evaluation.result import about_machine
from unspoken.recipe import load_recipe

FILES = {
    "unspoken/rope.py": "turn = 1\n",
    "benchmarks/wait.py": "wait = 1\n",
    "recipes/relay.yaml": "kind: relay\n",
    "tests/planted.py": "plant = 1\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few files, which are imported and read."""
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    monkeypatch.setattr(module, "_recipes", set[Path]())
    for name, words in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(words)
        os.utime(path, (0, 0))  # before this process
        if path.suffix == ".py":
            planted = ModuleType(path.stem)
            planted.__file__ = str(path)
            monkeypatch.setitem(sys.modules, f"planted_{path.stem}", planted)
    module.note_recipe(tmp_path / "recipes" / "relay.yaml")
    return tmp_path


def result(home: Path, name: str, **content: Any) -> Path:
    path = home / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": {"cores": 2}, **content}))
    return path


def stale(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(["stale", *map(str, words)])
    return int(end.value.code or 0)


def test_a_result_keeps_the_files_of_ours_that_were_used(home: Path) -> None:
    ours = sorted(name for name in FILES if not name.startswith("tests"))
    assert code_in_use() == {name: sha256(FILES[name].encode()).hexdigest()[:12] for name in ours}
    assert about_machine()["code"] == code_in_use()


@pytest.mark.parametrize("place", ["code", "machine"])
@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("tests")])
def test_a_file_that_has_changed_makes_it_stale(home: Path, name: str, place: str) -> None:
    code = code_in_use()
    content = {"code": code} if place == "code" else {"machine": {"code": code}}
    assert freshness(content).state == "fresh"
    (home / name).write_text(FILES[name] + "more = 2\n")
    assert freshness(content).changed == (name,)
    (home / name).unlink()
    assert freshness(content).state == "stale"
    (home / name).write_text(FILES[name])
    (home / "tests" / "planted.py").write_text("plant = 2\n")  # it has no part in results
    assert freshness(content).state == "fresh"


def test_a_file_that_changes_while_it_is_measured_makes_it_stale(home: Path) -> None:
    (home / "unspoken" / "rope.py").touch()
    assert freshness({"code": code_in_use()}).changed == ("unspoken/rope.py",)


def test_the_command_names_stale_ones(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = code_in_use()
    fresh, old = result(home, "a.json", code=code), result(home, "b.json")
    (home / "results" / "list.json").write_text("[]")  # no result
    assert stale(fresh.parent) == 0
    assert capsys.readouterr().out == f"{fresh}: fresh\n{old}: no digest\n"
    (home / "unspoken" / "rope.py").write_text("turn = 2\n")
    assert stale(fresh.parent) == 1
    told = f"{fresh}: stale, 1 of 3 files have changed\n  unspoken/rope.py\n{old}: no digest\n"
    assert capsys.readouterr().out == told
    assert stale(fresh, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {str(fresh): {"state": "stale", "changed": ["unspoken/rope.py"]}}
    assert stale(old) == 0
    assert stale(home / "tests") == 1
    assert "no result is there" in capsys.readouterr().err


def test_recipes_are_among_them() -> None:
    load_recipe("relay_projector")
    assert {"recipes/relay_projector.yaml", "unspoken/evaluation/result.py"} <= set(code_in_use())


@pytest.mark.parametrize("name", ["../outside.py", "/etc/hostname", "tests/planted.py", ""])
def test_a_result_makes_no_other_file_be_read(home: Path, name: str) -> None:
    (home.parent / "outside.py").write_text("")
    assert freshness({"code": {name: sha256(b"").hexdigest()[:12]}}).state == "stale"


@pytest.mark.parametrize("damage", ['{"machine": {}, "sha256": "other"}', "{"])
def test_a_damaged_file_is_said_to_be_damaged(home: Path, damage: str) -> None:
    path = home / "a.json"
    path.write_text(damage)
    assert stale(path) == 1
