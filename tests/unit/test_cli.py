"""The command line: what it prints, how it ends, how soon it starts."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import pytest

from unspoken import models
from unspoken.backbone import Backbone
from unspoken.cli import main
from unspoken.pipeline import Pipeline
from unspoken.recipe import find_recipe, recipe_names
from unspoken.studies.comparison import Report

PIPELINE = """# A pair for tests.
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
    path.write_text(PIPELINE.format(model=model))
    return str(path)


def one_line(told: str) -> str:
    """The only line of what a command told."""
    (line,) = told.rstrip("\n").split("\n")
    return line


# Starting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["recipes", "--help"], ["doctor"], ["models"]]
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


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("unspoken")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    names = "run chat train compare worth rate edges plan telephone report recipes models doctor"
    for name in names.split():
        assert name in done.stdout


def test_a_usage_error_ends_with_code_2(unspoken: Callable[..., Ended]) -> None:
    assert unspoken("runn").code == 2
    assert unspoken("run").code == 2
    assert unspoken("models", "--nope").code == 2


# Recipes -----------------------------------------------------------------------------------------


def test_recipes_are_listed_with_their_first_line(unspoken: Callable[..., Ended]) -> None:
    found = unspoken("recipes", "ls")
    lines = found.out.splitlines()
    assert found.code == 0
    assert [line.split()[0] for line in lines] == recipe_names()
    assert any("A planner and a solver on one model" in line for line in lines)
    assert json.loads(unspoken("recipes", "ls", "--json").out) == recipe_names()


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
    assert "relay_projector.yaml is there already; remove it or choose a folder" in found.err
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
    assert content["found"]["free GB"] >= 0


@pytest.mark.usefixtures("here")
def test_a_missing_package_is_named_with_the_extra(
    unspoken: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_scipy(name: str) -> str:
        if name == "scipy":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_scipy)
    found = unspoken("doctor")
    assert found.code == 1
    assert "scipy is not installed; pip install 'unspoken[compare]'" in found.out
    told = unspoken("doctor", "--json")
    assert told.code == 1
    (line,) = json.loads(told.out)["missing"]
    assert "scipy" in line


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
    monkeypatch.setattr("os.access", lambda path, mode: False)
    found = unspoken("doctor")
    assert found.code == 1
    assert "is not writable; set UNSPOKEN_CACHE" in found.out


# Running a pipeline ------------------------------------------------------------------------------


def test_an_answer_streams_and_its_cost_follows(
    unspoken: Callable[..., Ended], pair: str, tiny: Callable[..., Backbone]
) -> None:
    found = unspoken("run", pair, "why so?")
    told = unspoken("run", pair, "why so?", "--json")
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
    found = unspoken("run", pair, "why?", *settings, "--context", "It is late.", "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["turns"][1]["usage"]["written"] == 2
    empty = unspoken("run", pair, "why?", *settings)
    assert empty.code == 1
    assert "EmptyPrompt: the role reads {context}" in one_line(empty.err.splitlines()[-1])


@pytest.mark.parametrize("end", ["\n", "", "   \n"], ids=["empty line", "end of input", "spaces"])
def test_a_chat_answers_until_it_is_ended(
    end: str, unspoken: Callable[..., Ended], pair: str
) -> None:
    alone = [json.loads(unspoken("run", pair, q, "--json").out) for q in ("why?", "who so?")]
    found = unspoken("chat", pair, given=f"why?\nwho so?\n{end}")
    assert found.code == 0, found.err
    for one in alone:
        assert one["answer"] in found.out
    assert found.err.count("one: ") == found.err.count("two: ") == 2


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
        f"sender.model={model}",
        f"receiver.model={model}",
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


def test_a_comparison_prints_a_table_or_json_alone(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    more = ("limit=4", "channels=[full-text]", "reader.vectors=1")
    told = unspoken("compare", "relay", *settings, *more, "--json")
    assert told.code == 0, told.err
    assert json.loads(one_line(told.out)) == json.loads(
        (tmp_path / "out" / "results.json").read_text()
    )
    again = unspoken("compare", "relay", *settings, *more, "--json")
    assert json.loads(one_line(again.out))["arms"] == json.loads(told.out)["arms"]
    found = unspoken("compare", "relay", *settings, *more)
    assert "full-text, tuned" in found.out
    assert f"predictions to {tmp_path / 'out'}" in found.out.replace("\n", "")


def test_worth_prints_a_table_or_json_alone(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    more = ("worth.items=4", "channels=[full-text]", "reader.vectors=1")
    told = unspoken("worth", "relay", *settings, *more, "--json")
    assert told.code == 0, told.err
    content = json.loads(one_line(told.out))
    assert content == json.loads((tmp_path / "out" / "worth.json").read_text())
    found = unspoken("worth", "relay", *settings, *more)
    assert "full-text," in found.out  # 80 columns
    assert "bits of 2.00" in found.out  # log2 4
    assert "..." not in found.out.replace("\N{HORIZONTAL ELLIPSIS}", "...")
    assert f"worth.md to {tmp_path / 'out'}" in found.out.replace("\n", "")


def test_rate_prints_a_table_and_why_there_is_no_fit(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    more = ("worth.items=4", "channels=[full-text]", "reader.vectors=1", "lengths=[2]")
    found = unspoken("rate", "rate", *settings, *more)
    assert found.code == 0, found.err
    assert "2 tokens" in found.out
    assert "too few different rates for a fit" in found.out
    assert (tmp_path / "out" / "rate.png").is_file()


def test_plan_prints_a_table_and_a_verdict_or_json_alone(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    team = "team={budgets: [2, 4, 8], leaf: 4, budget: 40}"
    more = ("limit=4", "channels=[full-text]", "reader.vectors=1", "lengths=[2]", team)
    told = unspoken("plan", "plan", *settings, *more, "--json")
    assert told.code == 0, told.err
    content = json.loads(one_line(told.out))
    assert content == json.loads((tmp_path / "out" / "plan.json").read_text())
    found = unspoken("plan", "plan", *settings, *more)
    assert "predicted better" in found.out
    assert "votes of three" in found.out
    assert f"plan.png to {tmp_path / 'out'}" in found.out.replace("\n", "")


def test_telephone_prints_a_table_or_json_alone(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    more = ("limit=4", "channels=[full-text]", "reader.vectors=1", "hops=2", "prompts.note_lead=''")
    told = unspoken("telephone", "telephone", *settings, *more, "--json")
    assert told.code == 0, told.err
    content = json.loads(one_line(told.out))
    assert content == json.loads((tmp_path / "out" / "telephone.json").read_text())
    found = unspoken("telephone", "telephone", *settings, *more)
    assert "after 1 hop" in found.out
    assert f"telephone.png to {tmp_path / 'out'}" in found.out.replace("\n", "")


def test_a_broken_line_of_a_task_is_named(
    unspoken: Callable[..., Ended], settings: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = lines[6][:-9]
    path.write_text("\n".join(lines))
    for command, recipe in (("train", "relay_projector"), ("compare", "relay")):
        found = unspoken(command, recipe, *settings)
        assert found.code == 1
        assert f"DataError: {path}, line 7: Invalid JSON" in one_line(found.err)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "planer_solver", "q"],
            "UnknownName: unknown recipe 'planer_solver'; did you mean",
        ),
        (["run", "relay", "q"], "of kind 'relay'; this command takes pipeline"),
        (["chat", "relay"], "this command takes pipeline"),
        (["train", "planner_solver"], "this command takes projector, relay, planner"),
        (["compare", "relay_projector"], "this command takes relay"),
        (["worth", "reuse"], "this command takes relay"),
        (["rate", "relay"], "this command takes rate"),
        (["edges", "reuse"], "this command takes edges"),
        (["plan", "rate"], "this command takes plan"),
        (["telephone", "relay"], "this command takes telephone"),
        (["compare", "relay", "trainig.steps=3"], "RecipeError: .*trainig: Extra inputs"),
        (["run", "planner_solver", "q", "a={b"], "RecipeError: .*cannot be read with"),
        (["run", "{pair}", "q", "edges.0.channel={kind: txt}"], "did you mean 'text'"),
        (["run", "{pair}", "q", "edges.0.to=tow"], "unknown agent 'tow'; did you mean 'two'"),
        (["run", "{pair}", "q", "agents.0.model=smolm2"], "unknown model 'smolm2'"),
        (["run", "{pair}", "q", "agents.1.max_tokens=999"], "ContextTooLong: .*lower max_tokens"),
        (["compare", "relay", "task.name=qusc"], "did you mean 'qasc'"),
        (["compare", "relay", "task.train=/no.jsonl", "task.test=/no.jsonl"], "cannot read /no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_code_1(
    arguments: list[str], said: str, unspoken: Callable[..., Ended], pair: str
) -> None:
    import re

    found = unspoken(*(pair if word == "{pair}" else word for word in arguments))
    assert found.code == 1
    lines = [line for line in found.err.strip().split("\n") if "Loading weights" not in line]
    assert re.search(said, one_line("\n".join(lines)))
    assert "Traceback" not in found.err
    assert found.out == ""


def test_an_unknown_model_tells_the_extra(unspoken: Callable[..., Ended], pair: str) -> None:
    found = unspoken("run", pair, "q", "agents.0.model=smolm2")
    for name in (*models.PACKAGED, "pip install 'unspoken[models]'"):
        assert name in found.err


@pytest.mark.parametrize("command", ["run", "chat", "compare"])
def test_ctrl_c_ends_with_code_130_and_says_how_to_go_on(
    command: str,
    unspoken: Callable[..., Ended],
    pair: str,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "run", stop)
    monkeypatch.setattr(Report, "save", stop)
    arguments = {
        "run": ["run", pair, "why?"],
        "chat": ["chat", pair],
        "compare": ["compare", "relay", *settings, "channels=[handoff]", "limit=4"],
    }[command]
    found = unspoken(*arguments, given="why?\n")
    assert found.code == 130
    assert found.err.strip().endswith("stopped; run the same command again to go on")
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

    monkeypatch.setattr(Pipeline, "run", fail)
    with pytest.raises(ZeroDivisionError):
        unspoken("run", pair, "why?")


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
