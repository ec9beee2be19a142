"""The command line: what it prints, how it ends, how soon it starts."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unspoken import models
from unspoken.backbone import Backbone
from unspoken.cli import main
from unspoken.pipeline import Pipeline
from unspoken.recipe import PipelineRecipe, find_recipe, load_recipe, recipe_names
from unspoken.recipe.pipeline import build
from unspoken.sessions import Session
from unspoken.studies.comparison import Report
from unspoken.studies.information import InformationReport
from unspoken.terminal import escaped

TEAM = """# A team for tests.
kind: pipeline
agents:
  - {{name: one, model: "{model}", max_tokens: 3}}
  - {{name: two, model: "{model}", max_tokens: 5, template: "{{messages}}{{question}}"}}
edges:
  - {{from: one, to: two, channel: {{kind: text}}}}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def unspoken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Run a command in this process: unspoken("recipes", "ls", given="what is typed")."""

    def call(*arguments: str, given: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        capsys.readouterr()
        code: Any = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return Ended(code or 0, told.out, told.err)

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]) -> Path:
    folder = tmp_path_factory.mktemp("model")
    backbone = tiny("llama")
    cast(Any, backbone.model).save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path, model: Path) -> str:
    path = tmp_path / "pair.yaml"
    path.write_text(TEAM.format(model=model))
    return str(path)


def one_line(told: str) -> str:
    """The only line of what a command told."""
    (line,) = told.rstrip("\n").split("\n")
    return line


# Starting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["ask", "--help"],
        ["recipes", "ls"],
        ["recipes", "show", "relay"],
        ["compare", "recipes/relay.yaml"],
        ["models"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported_before_it_is_needed(arguments: Sequence[str]) -> None:
    script = (
        "import sys\n"
        "from unspoken.cli import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "heavy: []" in done.stdout, done.stderr


def test_importing_the_command_line_changes_nothing() -> None:
    script = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import unspoken.cli\n"
        "assert dict(os.environ) == before\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


VERBS = "ask chat serve watch train measure report stale inspect recipes models doctor"


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "-m", "unspoken"], [str(Path(sys.executable).with_name("unspoken"))]],
    ids=["module", "script"],
)
def test_the_command_is_installed(command: list[str]) -> None:
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=True, env=here
    )
    shown = re.findall(r"^\W+([a-z]+)  +[A-Z]", done.stdout, re.M)
    assert sorted(shown) == sorted(VERBS.split())
    assert "Usage: unspoken " in done.stdout


def test_the_version_is_printed(unspoken: Callable[..., Ended]) -> None:
    found = unspoken("--version")
    assert (found.code, found.out) == (0, f"unspoken {version('unspoken')}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["runn"], ["ask"], ["ask", "relay"], ["measure"], ["models", "--nope"], ["report"]],
    ids=" ".join,
)
def test_a_usage_error_ends_with_code_2(
    arguments: list[str], unspoken: Callable[..., Ended]
) -> None:
    found = unspoken(*arguments)
    assert found.code == 2
    assert "unspoken" in found.out + found.err


# Completion --------------------------------------------------------------------------------------


def complete(line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    given = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    script = "from unspoken.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "_UNSPOKEN_COMPLETE": "complete_bash", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_a_completion_script_is_printed(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--install-completion" in unspoken("--help").out
    monkeypatch.setenv("_UNSPOKEN_COMPLETE", "source_bash")
    found = unspoken()
    assert found.code == 0
    assert re.search(r"complete .* unspoken$", found.out, re.M)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("unspoken me", ["measure"]),
        ("unspoken comp", []),
        ("unspoken measure relay", ["relay", "relay_projector"]),
        ("unspoken recipes show rid", ["ridge"]),
        ("unspoken measure relay --study in", ["information"]),
        ("unspoken measure no_such_recipe --study ", []),
    ],
)
def test_verbs_recipes_and_studies_are_completed(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


# Former verbs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "today"),
    [
        ("run planner_solver 'why so?' a=1 --json", "ask planner_solver 'why so?' a=1 --json"),
        ("run", "ask RECIPE QUESTION"),
        (
            "compare recipes/relay.yaml out=x 'a=[b, c]'",
            "measure recipes/relay.yaml out=x 'a=[b, c]' --study comparison",
        ),
        ("compare --json relay", "measure --json relay --study comparison"),
        ("compare reuse", "measure reuse --study reuse"),
        (
            "compare planner_executor",
            "measure planner_executor --study comparison --study planner",
        ),
        ("compare no_such_recipe", "measure no_such_recipe --study comparison"),
        ("compare", "measure RECIPE --study comparison"),
        ("worth relay", "measure relay --study information"),
        ("rate rate trained=t", "measure rate trained=t --study rate"),
        ("edges graph", "measure graph --study edges"),
        ("plan plan --json", "measure plan --json --study teams"),
        ("telephone telephone", "measure telephone --study telephone"),
        ("telephone --help", "measure RECIPE --help --study telephone"),
    ],
)
def test_a_former_verb_prints_its_new_form(
    given: str, today: str, unspoken: Callable[..., Ended]
) -> None:
    found = unspoken(*shlex.split(given))
    assert found.code == 2
    assert found.out == ""
    verb = given.split()[0]
    assert one_line(found.err) == f"`unspoken {verb}` is gone; write: unspoken {today}"


# Recipes -----------------------------------------------------------------------------------------


def test_recipes_are_listed_with_whole_sentences(unspoken: Callable[..., Ended]) -> None:
    found = unspoken("recipes", "ls")
    lines = found.out.splitlines()
    assert found.code == 0
    assert [line.split()[0] for line in lines] == recipe_names()
    for line in lines:
        assert re.fullmatch(r"\w+ +[A-Z][^\n]+[.?]", line)
    assert any("one model: the planner writes hints, the solver" in line for line in lines)
    assert json.loads(unspoken("recipes", "ls", "--json").out) == recipe_names()


@pytest.mark.parametrize("columns", [20, 60])
def test_sentences_are_wrapped_in_a_terminal(
    columns: int, unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = unspoken("recipes", "ls").out
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    wrapped = unspoken("recipes", "ls").out
    assert wrapped.split() == plain.split()
    assert max(map(len, wrapped.splitlines())) <= max(columns, 36)
    names = [line.split()[0] for line in wrapped.splitlines() if not line.startswith(" ")]
    assert names == recipe_names()


def test_a_recipe_is_shown_as_it_is(unspoken: Callable[..., Ended]) -> None:
    assert unspoken("recipes", "show", "relay").out == find_recipe("relay").read_text("utf-8")


def test_a_recipe_is_copied_with_those_it_continues(
    unspoken: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "mine"
    assert unspoken("recipes", "cp", "relay", str(folder)).code == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["relay.yaml", "relay_projector.yaml"]
    assert (folder / "relay.yaml").read_bytes() == find_recipe("relay").read_bytes()


def test_copying_overwrites_nothing(unspoken: Callable[..., Ended], tmp_path: Path) -> None:
    mine = tmp_path / "relay_projector.yaml"
    mine.write_text("mine")
    found = unspoken("recipes", "cp", "relay", str(tmp_path))
    assert found.code == 1
    assert "relay_projector.yaml is there already; remove it or choose another folder" in found.err
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]  # no half of a chain either
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("command", ["show", "cp"])
def test_an_unknown_recipe_gets_a_suggestion(command: str, unspoken: Callable[..., Ended]) -> None:
    found = unspoken("recipes", command, "relya")
    assert found.code == 1
    assert "unknown recipe 'relya'; did you mean 'relay'?" in one_line(found.err)
    assert found.out == ""


# Models and doctor -------------------------------------------------------------------------------


def test_models_are_listed(unspoken: Callable[..., Ended], tmp_path: Path) -> None:
    found = unspoken("models")
    assert found.code == 0
    for name in models.PACKAGED:
        assert f"{name} " in found.out
    assert found.out.count("not converted yet") == len(models.PACKAGED)
    assert str(tmp_path / "cache") in found.out
    told = json.loads(unspoken("models", "--json", "--verify").out)
    assert [row["name"] for row in told["models"]] == list(models.PACKAGED)
    assert not any(row["converted"] for row in told["models"])
    assert told["cache"] == str(tmp_path / "cache")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every packaged model is installed."""
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    monkeypatch.setattr(models.Packaged, "paths", property(lambda self: [Path("/packages/part")]))


@pytest.mark.usefixtures("here")
def test_a_healthy_machine_ends_with_code_0(unspoken: Callable[..., Ended], tmp_path: Path) -> None:
    found = unspoken("doctor")
    assert found.code == 0, found.out
    assert version("torch") in found.out
    told = unspoken("doctor", "--json")
    assert told.code == 0
    content = json.loads(told.out)
    assert content["missing"] == []
    assert content["found"]["cache"] == str(tmp_path / "cache")
    assert content["found"]["torch"] == version("torch")
    assert f"transformers {version('transformers')}" in content["found"]["engine"].split(", ")
    assert content["found"]["free GB"] >= 0


@pytest.mark.usefixtures("here")
def test_the_verdict_comes_last_and_names_what_models_run_on(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = unspoken("doctor")
    assert found.out.splitlines()[-1] == "Ready: models run on the processor."
    about = SimpleNamespace(name="Some GPU", total_memory=80 << 30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: about)
    found = unspoken("doctor")
    told = "Some GPU with 80 GB and 1 more"
    assert found.out.splitlines()[-1] == f"Ready: models run on {told}."
    assert json.loads(unspoken("doctor", "--json").out)["found"]["gpu"] == told


@pytest.mark.usefixtures("here")
def test_a_gpu_that_torch_cannot_use_is_noted(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("unspoken.doctor._NVIDIA", tmp_path)
    found = unspoken("doctor")
    assert found.code == 0
    assert f"there is a GPU, which torch {version('torch')}" in found.out


def pretend(monkeypatch: pytest.MonkeyPatch, package: str, found: str | None) -> None:
    """Have a package of another version, or none."""

    def other(name: str) -> str:
        if name == package and found is None:
            raise PackageNotFoundError(name)
        return found if found is not None and name == package else version(name)

    monkeypatch.setattr("importlib.metadata.version", other)


@pytest.mark.usefixtures("here")
def test_the_package_of_an_extra_is_noted_and_not_needed(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "scipy", None)
    found = unspoken("doctor")
    assert found.code == 0
    told = "not needed: scipy is not installed; pip install 'unspoken[compare]'"
    assert told in found.out.splitlines()
    content = json.loads(unspoken("doctor", "--json").out)
    assert content["missing"] == []
    assert "compare" not in content["found"]["extras"].split(", ")
    assert "serve" in content["found"]["extras"].split(", ")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("version", "told"),
    [(None, "safetensors is not installed"), ("0.1", "safetensors is 0.1, and >=")],
)
def test_a_package_that_is_needed_decides_the_verdict(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, version: str | None, told: str
) -> None:
    pretend(monkeypatch, "safetensors", version)
    found = unspoken("doctor")
    assert found.code == 1
    (line,) = (one for one in found.out.splitlines() if one.startswith(told))
    assert line.endswith("; pip install unspoken")
    assert found.out.splitlines()[-1].startswith("Not ready: one thing is missing.")


@pytest.mark.usefixtures("here")
def test_memory_is_that_of_the_container(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{1 << 30}\n")
    monkeypatch.setattr("unspoken.doctor._LIMIT", limit)
    found = unspoken("doctor")
    assert found.code == 1
    assert "memory: there are 1,024 MB, and a packaged model takes up to 2 GB" in found.out
    limit.write_text("max\n")
    assert unspoken("doctor").code == 0


def test_missing_models_are_named_with_the_extra(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    found = unspoken("doctor", "--json")
    assert found.code == 1
    missing = " ".join(json.loads(found.out)["missing"])
    assert missing.count("pip install 'unspoken[models]'") == len(models.PACKAGED)


@pytest.mark.usefixtures("here")
def test_a_cache_that_cannot_be_written_is_reported(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSPOKEN_CACHE", "/dev/null/cache")
    found = unspoken("doctor")
    assert found.code == 1
    assert "cache: cannot write /dev/null/cache" in found.out
    assert "Or set UNSPOKEN_CACHE to a folder that can be written to" in found.out


# Running a pipeline ------------------------------------------------------------------------------


def test_an_answer_streams_and_its_cost_follows(
    unspoken: Callable[..., Ended], pair: str, tiny: Callable[..., Backbone]
) -> None:
    found = unspoken("ask", pair, "why so?")
    told = unspoken("ask", pair, "why so?", "--json")
    assert found.code == told.code == 0
    content = json.loads(told.out)
    assert found.out.strip() == content["answer"]
    costs = [line for line in found.err.splitlines() if "tokens read" in line]
    assert [line.split(":")[0] for line in costs] == ["one", "two"]
    assert [turn["agent"] for turn in content["turns"]] == ["one", "two"]
    assert content["usage"]["written"] == 8
    assert "8 written" not in costs[0]
    assert f"{content['turns'][0]['usage']['wire']:,} bytes sent" in costs[0]


def test_settings_and_context_reach_the_pipeline(unspoken: Callable[..., Ended], pair: str) -> None:
    settings = ("agents.1.max_tokens=2", 'agents.0.template="{context}"')
    found = unspoken("ask", pair, "why?", *settings, "--context", "It is late.", "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["turns"][1]["usage"]["written"] == 2
    empty = unspoken("ask", pair, "why?", *settings)
    assert empty.code == 1
    assert "EmptyPrompt: the role reads {context}" in one_line(empty.err.splitlines()[-1])


def test_fields_and_documents_reach_the_pipeline(
    unspoken: Callable[..., Ended], pair: str, tmp_path: Path
) -> None:
    for name, text in (("a.md", "Ada {x}"), ("b.md", "\ufeffBo=2")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = ('agents.0.template="{style}: {documents}"', 'agents.0.document="{name} {text};"')
    files = [part for n in "ba" for part in ("--document", str(tmp_path / f"{n}.md"))]
    found = unspoken("ask", pair, "why?", *settings, "--field", "style=a=b", *files, "--json")
    assert found.code == 0, found.err
    usage, answer = (json.loads(found.out)[name] for name in ("turns", "answer"))
    shown = f"a=b: {tmp_path}/b.md Bo=2;{tmp_path}/a.md Ada {{x}};"
    plain = unspoken(
        "ask", pair, "why?", 'agents.0.template="{context}"', "--context", shown, "--json"
    )
    assert answer == json.loads(plain.out)["answer"]
    assert usage[0]["text"] == json.loads(plain.out)["turns"][0]["text"]
    lone = unspoken("ask", pair, "why?", *settings, "--field", "style=brief")
    assert "EmptyPrompt: the role reads {documents}" in one_line(lone.err.splitlines()[-1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--field", "style"], "QueryError: --field 'style' gives no field"),
        (["--field", "=x"], "QueryError: --field '=x' gives no field"),
        (["--field", "a b=x"], "QueryError: --field 'a b=x' gives no field"),
        (["--field", "s=x", "--field", "s=y"], "QueryError: --field 's=y' gives no field, or one"),
        (["--field", "question=x"], "or one that there is already"),
        (["--field", "documents=x", "--document", "{home}/a.md"], "give them once"),
        (["--field", "colour=red"], "UnknownName: unknown field 'colour'"),
        (["--document", "{home}/none.md"], "DataError: cannot read document .*No such file"),
        (["--document", "{home}"], "DataError: cannot read document .*directory"),
        (["--document", "{home}/bytes.md"], "DataError: document .* is not written in UTF-8"),
        (["--document", "{home}/empty.md"], "QueryError: the text of document .*empty.md"),
        (["--document", "{home}/a.md", "--document", "{home}/a.md"], "QueryError: .*a.md' twice"),
    ],
)
def test_fields_and_documents_that_cannot_be_asked(
    unspoken: Callable[..., Ended], pair: str, tmp_path: Path, given: list[str], said: str
) -> None:
    for name, data in (("a.md", b"Ada"), ("bytes.md", b"\xff\xfe"), ("empty.md", b" \n")):
        (tmp_path / name).write_bytes(data)
    found = unspoken("ask", pair, "why?", *(one.format(home=tmp_path) for one in given))
    assert found.code == 1
    assert re.search(said, one_line(found.err.splitlines()[-1]))


@pytest.mark.parametrize("end", ["\n", "", "   \n"], ids=["empty line", "end of input", "spaces"])
def test_a_chat_answers_until_it_is_ended(
    end: str, unspoken: Callable[..., Ended], pair: str
) -> None:
    plan = load_recipe(pair, [])
    assert isinstance(plan, PipelineRecipe)
    with build(plan).session() as talk:
        alone = [{"answer": talk.run(question).answer} for question in ("why?", "who so?")]
    found = unspoken("chat", pair, given=f"why?\nwho so?\n{end}")
    assert found.code == 0, found.err
    for one in alone:
        assert escaped(one["answer"]) in found.out
    assert found.err.count("one: ") == found.err.count("two: ") == 2
    assert found.out.count("one: ") == found.out.count("two: ") == 2


def test_a_chat_says_what_is_left_out_and_noted(unspoken: Callable[..., Ended], pair: str) -> None:
    asked = "".join(f"{letter}?\n" for letter in "abcdefghij")
    keep = ["session.keep=distilled", "agents.1.template='{question}{messages}'"]
    found = unspoken("chat", pair, *keep, given=f"{asked}\n")
    assert found.code == 0, found.err
    assert re.search(r"one no longer reads the first \d exchanges, but notes of \d", found.err)


# Training and comparing --------------------------------------------------------------------------


def task(folder: Path) -> tuple[Path, Path]:
    paths = (folder / "train.jsonl", folder / "test.jsonl")
    for path, count in zip(paths, (12, 4), strict=True):
        rows = [
            {
                "id": f"{path.stem}{n}",
                "context": f"{path.stem} {n} is {'red' if n % 2 else 'blue'} {n}.",
                "question": f"How is {path.stem} {n}?",
                "answers": [f"{'red' if n % 2 else 'blue'} {n}"],
            }
            for n in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> list[str]:
    train, test = task(tmp_path)
    return [
        f"pair.sender.model={model}",
        f"pair.receiver.model={model}",
        f"task.train={train}",
        f"task.test={test}",
        "task.validation=3",
        "validation=2",
        "prompts.instruction=Say.",
        "prompts.shots=1",
        "prompts.answer_tokens=2",
        "projector.hidden=8",
        "projector.prompt=1",
        "warmup.steps=2",
        "training.steps=2",
        f"out={tmp_path / 'out'}",
    ]


COMPARED = (
    "comparison.limit=4",
    "comparison.channels=[full-text]",
    "comparison.reader.vectors=1",
    "studies={comparison: {}, information: {items: 4}}",
)


def test_a_projector_is_trained_and_its_place_told(
    unspoken: Callable[..., Ended], settings: list[str]
) -> None:
    found = unspoken("train", "relay_projector", *settings)
    assert found.code == 0, found.err
    assert len(found.out.splitlines()) == 1
    told = unspoken("train", "relay_projector", *settings, "--json")
    content = json.loads(told.out)
    assert found.out.strip().endswith(
        f"projector of {content['parameters']:,} parameters in {content['folder']}"
    )
    assert (Path(content["folder"]) / "model.safetensors").is_file()
    assert "loss" not in told.err  # the second time it is only loaded


def test_a_trained_pair_is_asked_in_its_folder(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    assert unspoken("train", "relay_projector", *settings).code == 0
    home, context = str(tmp_path / "out"), ("--context", "Box 1 is red.")
    found = unspoken("ask", home, "How is box 1?", *context)
    assert found.code == 0, found.err
    assert [line.split(":")[0] for line in found.err.splitlines()[-2:]] == ["sender", "receiver"]
    talk = unspoken("chat", home, *context, given="How is box 1?\n")
    assert found.out.strip() in talk.out
    refused = unspoken("ask", home, "How?", "training.steps=3")
    assert refused.code == 1
    assert "takes no settings, but ['training.steps=3'] were given" in one_line(refused.err)
    empty = unspoken("ask", str(tmp_path), "How?")
    assert (empty.code, empty.err.split(":")[0]) == (1, "PairError")


def test_all_studies_of_a_recipe_are_measured(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told = unspoken("measure", "relay", *settings, *COMPARED, "--json")
    assert told.code == 0, told.err
    content = json.loads(one_line(told.out))
    assert list(content) == ["comparison", "information"]
    for name, kept in (("comparison", "results.json"), ("information", "worth.json")):
        found = json.loads((out / kept).read_text())
        assert content[name] == {key: found[key] for key in found if key != "sha256"}
    page = (out / "report.html").read_text()
    assert "Gain and content" in page
    assert "Usable bits" in page
    found = unspoken("measure", "relay", *settings, *COMPARED)
    assert "comparison: What was the message worth?\n" in found.out
    assert "full-text, tuned" in found.out
    assert "bits of 2.00" in found.out  # log2 4
    assert "..." not in found.out.replace("\N{HORIZONTAL ELLIPSIS}", "...")  # 80 columns
    wrote = [line for line in found.out.splitlines() if line.startswith("wrote ")]
    assert wrote == [f"wrote {out / name}" for name in ("results.json", "worth.json")] + [
        f"wrote {out / 'report.html'}"
    ]


def test_studies_are_measured_by_name(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    bits = unspoken("measure", "relay", *settings, *COMPARED, "--study", "information", "--json")
    assert list(json.loads(bits.out)) == ["information"]
    assert not (tmp_path / "out" / "results.json").exists()
    names = ("--study", "information", "--study", "comparison", "--study", "information")
    both = unspoken("measure", "relay", *settings, *COMPARED, *names, "--json")
    assert list(json.loads(both.out)) == ["information", "comparison"]


def test_a_stop_in_the_second_study_leaves_the_page_of_the_first(
    unspoken: Callable[..., Ended],
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(InformationReport, "save", stop)
    assert unspoken("measure", "relay", *settings, *COMPARED).code == 130
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Gain and content" in page
    assert "Usable bits" not in page


def test_a_report_is_written_and_recomputed(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert unspoken("measure", "relay", *settings, *COMPARED, "--study", "comparison").code == 0
    (out / "report.html").unlink()
    assert unspoken("report", str(out)).out == f"wrote {out / 'report.html'}\n"
    assert json.loads(unspoken("report", str(out), "--json").out) == {
        "page": str(out / "report.html")
    }
    found = unspoken("report", str(out), "--again", str(again))
    assert found.out == f"wrote {again / 'report.html'}\n"
    assert json.loads((again / "results.json").read_text())["seed"] == 0
    twice = unspoken("report", str(out), "--again", str(again))
    assert twice.code == 1
    assert "is there already" in one_line(twice.err)


def test_a_broken_line_of_a_task_is_named(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = lines[6][:-9]
    path.write_text("\n".join(lines))
    for verb, more in (("train", ()), ("measure", COMPARED)):
        found = unspoken(verb, "relay", *settings, *more)
        assert found.code == 1
        assert f"DataError: {path}, line 7: Invalid JSON" in one_line(found.err)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["ask", "planer_solver", "q"],
            "UnknownName: unknown recipe 'planer_solver'; did you mean",
        ),
        (["ask", "no/planner_solver.yaml", "q"], "unknown recipe 'no/planner_solver.yaml'"),
        (["ask", "relay", "q"], "of kind 'relay'; ask a recipe of kind 'pipeline'"),
        (["chat", "relay"], "ask a recipe of kind 'pipeline'"),
        (["train", "planner_solver"], "RecipeError: .*kind 'pipeline' trains nothing"),
        (["measure", "{pair}"], "RecipeError: .*lists no studies.* may list: .*edges"),
        (["measure", "relay_projector"], "RecipeError: .*lists no studies.* may list: comparison"),
        (["measure", "planner"], "RecipeError: .*kind 'planner' can only be trained"),
        (["measure", "relay", "--study", "comparsion"], "UnknownName: .*did you mean 'comparison'"),
        (["measure", "relay", "--study", "comparison", "--study", "edges"], "no study 'edges'"),
        (["measure", "relay", "trainig.steps=3"], "RecipeError: .*trainig: Extra inputs"),
        (["measure", "relay", "channels=[text]"], "RecipeError: .*comparison.channels"),
        (["report", "no_such_folder"], "DataError: .*no_such_folder"),
        (["inspect", "no_such_message"], "no_such_message"),
        (["ask", "planner_solver", "q", "a={b"], "RecipeError: .*cannot be read with"),
        (["ask", "{pair}", "q", "edges.0.channel={kind: txt}"], "did you mean 'text'"),
        (["ask", "{pair}", "q", "edges.0.to=tow"], "unknown agent 'tow'; did you mean 'two'"),
        (["ask", "{pair}", "q", "agents.0.model=smolm2"], "unknown model 'smolm2'"),
        (["ask", "{pair}", "q", "agents.1.max_tokens=999"], "ContextTooLong: .*lower max_tokens"),
        (["measure", "relay", "task.name=qusc"], "did you mean 'qasc'"),
        (["measure", "relay", "task.train=/no.jsonl", "task.test=/no.jsonl"], "cannot read /no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_code_1(
    arguments: list[str], said: str, unspoken: Callable[..., Ended], pair: str
) -> None:
    found = unspoken(*(pair if word == "{pair}" else word for word in arguments))
    assert found.code == 1
    lines = [line for line in found.err.strip().split("\n") if "Loading weights" not in line]
    assert re.search(said, one_line("\n".join(lines)))
    assert "Traceback" not in found.err
    assert found.out == ""


def test_an_unknown_model_tells_the_extra(unspoken: Callable[..., Ended], pair: str) -> None:
    found = unspoken("ask", pair, "q", "agents.0.model=smolm2")
    for name in (*models.PACKAGED, "pip install 'unspoken[models]'"):
        assert name in found.err


@pytest.mark.parametrize("verb", ["ask", "chat", "measure"])
def test_ctrl_c_ends_with_code_130_and_says_how_to_go_on(
    verb: str,
    unspoken: Callable[..., Ended],
    pair: str,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "stream", stop)
    monkeypatch.setattr(Session, "stream", stop)
    monkeypatch.setattr(Report, "save", stop)
    arguments = {
        "ask": [pair, "why?"],
        "chat": [pair],
        "measure": ["relay", *settings, *COMPARED],
    }[verb]
    found = unspoken(verb, *arguments, given="why?\n")
    assert found.code == 130
    assert found.err.strip().endswith("stopped; run the same command again to continue")
    assert "Traceback" not in found.err


def test_ctrl_c_at_the_prompt_of_a_chat_ends_with_code_130(
    unspoken: Callable[..., Ended], pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", stop)
    assert unspoken("chat", pair).code == 130


def test_a_defect_of_ours_keeps_its_traceback(
    unspoken: Callable[..., Ended], pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Pipeline, "stream", fail)
    with pytest.raises(ZeroDivisionError):
        unspoken("ask", pair, "why?")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    """The pages of 32 MB that come and go are asked of the system once, not each time."""
    script = """
import resource
import torch
from unspoken.cli import main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
try:
    main(["--help"])
except SystemExit:
    faults()
    assert faults() * 10 < plain, (faults(), plain)
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
