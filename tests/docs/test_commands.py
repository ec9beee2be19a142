"""The commands that pages show: each is taken by the real command line, up to where work begins."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import typer
from typer.main import get_command

from tests.docs.blocks import PAGES, ROOT, blocks, commands
from unspoken.cli import app
from unspoken.recipe import load_recipe, measurements
from unspoken.serving.protocol import ChatRequest

BLOCKS = [block for page in PAGES for block in blocks(page, "sh")]
SHOWN = [(page, command) for page in PAGES if page != "docs/log.md" for command in commands(page)]
"""The log keeps the commands of its days, some of which are gone."""

STEPS = ("kind: summary", "--study brevity")  # made by CONTRIBUTING.md, whose test loads them
SYSTEM = ("git", "cd", ".", "cat")


class _Parsed(BaseException):
    """Arguments were taken, and the work would begin."""


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=lambda one: one.replace("/", "-")[:60])
def test_a_command_is_taken(page: str, command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    words = [re.sub(r"^\.venv[-\w]*/bin/", "", word) for word in shlex.split(command)]
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if words[:3] == ["python", "-m", "unspoken"]:
        del words[:2]
    match words:
        case ["unspoken", *given]:
            _verb(given)
            if given and not any(step in command for step in STEPS):
                _recipes(given)
        case ["python", *given]:
            _script(given, monkeypatch)
        case ["make", *targets]:
            made = (ROOT / "Makefile").read_text(encoding="utf-8")
            named = [one for one in targets if "=" not in one]
            assert [one for one in named if not re.search(rf"^{one}:", made, re.M)] == []
        case ["pip", "install", *given]:
            _extras(given)
        case ["pytest", *given]:
            _paths(given)
        case ["curl", *given]:
            assert any(one.endswith("/v1/chat/completions") for one in given)
            ChatRequest.model_validate_json(given[given.index("-d") + 1])
        case [word, *_]:
            assert word in SYSTEM, f"{page} shows a command that no test knows: {command}"


def _verb(given: Sequence[str]) -> None:
    """A verb, and what its own parser makes of the rest."""
    verb: Any = get_command(app)
    rest = list(given)
    while rest and hasattr(verb, "commands") and not rest[0].startswith("-"):
        assert rest[0] in verb.commands, f"there is no {rest[0]!r} in {sorted(verb.commands)}"
        verb = verb.commands[rest.pop(0)]
        assert not verb.hidden
    if rest:  # a verb alone is its name in a sentence
        with suppress(typer.Exit):  # of --version
            verb.make_context(verb.name, rest)


def _recipes(given: Sequence[str]) -> None:
    """Recipes of this repository load with what is set, and list the study that is asked for."""
    names = [word for word in given if re.fullmatch(r"recipes/\w+\.yaml", word)]
    overrides = [word for word in given if re.match(r"[\w.]+=", word)]
    recipes = [load_recipe(name, overrides) for name in names]
    if given[0] == "measure" and recipes:
        study = given[given.index("--study") + 1] if "--study" in given else None
        assert measurements(recipes[0], study)


def _script(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module or a file, and its own parser's arguments."""
    if given[:2] == ["-m", "pytest"]:
        _paths(given[2:])
        return
    module = given[0] == "-m"
    name, *rest = given[1:] if module else given
    path = ROOT / (f"{name.replace('.', '/')}.py" if module else name)
    path = path if path.is_file() else path.with_suffix("") / "__main__.py"
    text = path.read_text(encoding="utf-8")
    if not module:  # such a file finds no module beside its folder
        assert not re.search(r"^(from|import) (benchmarks|tests)\b", text, re.M), f"-m {name}"
    if path.parent.name == "examples" and not module:  # test_readme.py runs it
        assert not rest
        return
    assert "ArgumentParser" in text or "cli_evaluate" in text
    if "cli_evaluate" in text:  # a process of its own would register the model once
        monkeypatch.setattr("lm_eval.api.registry.register_model", lambda *_: lambda model: model)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", _stopping())
    monkeypatch.setattr(sys, "argv", [str(path), *rest])
    monkeypatch.syspath_prepend(path.parent)
    start = runpy.run_module if module else runpy.run_path
    monkeypatch.delitem(sys.modules, name, raising=False)  # another test may have imported it
    with pytest.raises(_Parsed):
        start(name, run_name="__main__")


def _stopping() -> Any:
    parse = argparse.ArgumentParser.parse_args

    def stopping(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(self, *given, **named)
        raise _Parsed

    return stopping


def _paths(given: Sequence[str]) -> None:
    paths = [word for word in given if "/" in word]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def _extras(given: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"(?:\.|unspoken)(?:\[([\w,-]+)\])?(?= |$)", " ".join(given))
    assert named
    for extras in filter(None, named):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "command",
    [
        "unspoken run recipes/relay.yaml Why?",
        "unspoken measure recipes/relay.yaml --studies comparison",
        "unspoken measure recipes/relay.yaml --study reuse",
        "unspoken measure recipes/relay.yaml pair.sender.name=x",
        "unspoken recipes copy relay",
        "python -m benchmarks.wire --repeat 3 --nothing",
        "python benchmarks/nothing.py",
        "make everything",
        "pip install -e '.[everything]'",
        "pytest tests/nothing",
        "unspeak",
    ],
)
def test_a_command_that_is_wrong_is_noticed(command: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        test_a_command_is_taken("a page", command, monkeypatch)


def test_there_are_commands_of_each_kind():
    first = {command.split()[0] for _, command in SHOWN}
    assert {"unspoken", "python", "make", "pip", "pytest"} <= first
    assert len(SHOWN) > 100
