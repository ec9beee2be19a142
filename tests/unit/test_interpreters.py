"""Agents in another Python: here this one again, one without packages, one with another version."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from venv import EnvBuilder

import pytest

from tests.unit import workers
from unspoken.channels import Handoff, TextChannel
from unspoken.errors import PipelineError, RecipeError, WorkerError
from unspoken.executors import Processes
from unspoken.executors.lines import Transport
from unspoken.pipeline import Edge, Pipeline
from unspoken.recipe import PipelineRecipe, load_recipe
from unspoken.recipe.pipeline import build

HOME = str(Path(__file__).parents[2])
PUPPET = partial(workers.Puppet, "one")
AGENTS = (
    partial(workers.tiny, "reader", "llama", 32, "{context}"),
    partial(workers.tiny, "solver", "llama"),
)
EDGES = (Edge("reader", "solver", Handoff()), Edge("reader", "solver", TextChannel()))
ITEM = {"context": "Ada keeps the key in a drawer.", "question": "Where is it?"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="handles are passed as on Unix")


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of this checkout are found by the other Python too."""
    monkeypatch.setenv("PYTHONPATH", HOME)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment without any package."""
    home = tmp_path_factory.mktemp("bare")
    EnvBuilder(symlinks=True).create(home)
    return home / "bin" / "python"


@pytest.mark.dist
@pytest.mark.parametrize("transport", ["pipe", "shared_memory", "tcp"])
def test_answers_are_those_of_this_process(transport: Transport) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set[str]()
    place = Processes(transport, python=sys.executable)
    with Pipeline(AGENTS, EDGES, executor=place) as there:
        found, right = there.run(ITEM), Pipeline(AGENTS, EDGES).run(ITEM)
        assert [turn.text for turn in found.turns] == [turn.text for turn in right.turns]
        assert found.usage.wire == right.usage.wire
    gc.collect()
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.dist
def test_a_lost_worker_is_started_again_in_its_python() -> None:
    with Pipeline([PUPPET], executor=Processes(python=Path(sys.executable))) as pipeline:  # pyright: ignore
        first = pipeline.run("hello").answer
        assert pipeline.run("hello").answer == first
        with pytest.raises(WorkerError, match="was killed by SIGKILL"):
            pipeline.run("one die")
        assert pipeline.run("hello").answer != first
        with pytest.raises(WorkerError, match="ended with exit code 3"):
            pipeline.run("one exit")


@pytest.mark.dist
def test_a_python_without_the_package_is_refused(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"bin/python has no package `unspoken`.*install"):
        Pipeline([PUPPET], executor=Processes(python=bare))  # pyright: ignore


@pytest.mark.dist
def test_another_version_of_messages_is_refused(
    bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it greets with is looked at before it gets anything."""
    folder = tmp_path / "unspoken" / "executors"
    folder.mkdir(parents=True)
    (folder / "worker.py").write_text(OTHER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"is another one: it says b'unspoken, wire 1'"):
        Pipeline([PUPPET], executor=Processes(python=bare))  # pyright: ignore


OTHER = """
from multiprocessing.connection import Connection
def serve(handle):
    pipe = Connection(handle)
    pipe.send_bytes(b"unspoken, wire 1")
    pipe.recv_bytes()
"""


@pytest.mark.dist
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_it_ends_with_its_pipeline(number: signal.Signals, tmp_path: Path) -> None:
    """Even in the middle of a turn."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    running = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    worker = int(running.stdout.readline().split()[0])
    assert running.stdout.readline() == "hanging\n"
    os.kill(running.pid, number)
    running.communicate(timeout=20)
    end = monotonic() + 5
    while Path(f"/proc/{worker}").exists() and monotonic() < end:
        sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


SCRIPT = """
import signal, sys
from functools import partial
from tests.unit.workers import Puppet
from unspoken import Pipeline, Processes

signal.signal(signal.SIGINT, signal.SIG_DFL)
place = Processes(python=sys.executable)
with Pipeline([partial(Puppet, "one")], executor=place) as pipeline:
    print(pipeline.run("?").answer, flush=True)
    pipeline.run("one hang")
"""


@pytest.mark.dist
def test_a_recipe_names_the_python_of_its_agents(tmp_path: Path, folders: dict[str, Path]) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"kind: pipeline\nagents: [{{name: a, model: {folders['other']}}}]\n")
    there = [f"python={sys.executable}", "executor=pipe", "agents.0.max_tokens=4"]
    with build(recipe_in(path, *there)) as found, build(recipe_in(path, *there[2:])) as right:
        question = {"question": "Where?"}
        assert found.run(question).answer == right.run(question).answer
    with pytest.raises(RecipeError, match="is for processes, got executor=here; set executor=pipe"):
        recipe_in(path, f"python={sys.executable}")


def recipe_in(path: Path, *settings: str) -> PipelineRecipe:
    found = load_recipe(str(path), list(settings))
    assert isinstance(found, PipelineRecipe)
    return found


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(PipelineError, match="python='nowhere/python' is no program"):
        Processes(python="nowhere/python")
    made: Any = type("Made", (), {"__module__": "__main__"})
    with pytest.raises(PipelineError, match="is a function of the script that runs"):
        Pipeline([partial(made)], executor=Processes(python=sys.executable))
