"""A relay whose receiver is in an engine, which here is transformers again under another name."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench import Bench, Counter, run_study
from unspoken.backbone import Backbone
from unspoken.engines import VllmModel, ending_engines
from unspoken.engines import load as loading
from unspoken.errors import MissingExtra, RecipeError
from unspoken.evaluation.identity import key_of
from unspoken.evaluation.result import about_machine
from unspoken.pipeline import Pipeline
from unspoken.protocols import SameWords
from unspoken.recipe import load_recipe, measurements
from unspoken.relay import pipelines
from unspoken.relay.pipelines import RelayPipelines, made

SMALL = ("comparison.channels=[text, embedding]", "comparison.reader=null")


class Engine(VllmModel):
    """Does what an engine does, by the model inside. Counts rows, and notes that it was closed."""

    def __init__(self, plain: Backbone) -> None:
        SameWords.__init__(self, plain)
        self.rows, self.open = list[int](), True

    @property
    def spec(self) -> Any:
        return self.inner.spec

    @property
    def computed_on(self) -> str:
        return "vllm cpu"

    def read(self, prompt: Any, **needs: Any) -> Any:
        self.rows.append(prompt.batch)
        return self.inner.read(prompt, **needs)

    def write(self, *given: Any) -> Any:
        return self.inner.write(*given)

    def assess(self, *given: Any) -> Any:
        return self.inner.assess(*given)

    def write_together(self, *given: Any) -> Any:
        return self.inner.write_together(*given)

    def close(self) -> None:
        self.open = False


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The engines that were started. When one is, nothing else may have the weights."""
    started: list[Engine] = []

    def start(name: str, *, dtype: str) -> Engine:
        gc.collect()
        loaded = [one for one in gc.get_objects() if type(one) is Backbone and one.name == name]
        assert {*map(id, loaded)} <= {id(one.inner) for one in started}
        started.append(Engine(Backbone.from_pretrained(name, dtype=dtype)))
        return started[-1]

    monkeypatch.setattr(pipelines, "check_engine", lambda model: None)
    monkeypatch.setattr(loading.VllmModel, "from_pretrained", start)
    return started


def answers(bench: Bench) -> dict[str, list[str]]:
    """The lines of all predictions, without the keys and the times."""
    return {
        name: [line.split(b'"seconds"')[0].decode() for line in content.splitlines()]
        for name, content in bench.predictions().items()
    }


def test_the_same_is_trained_and_answered(
    bench: Bench, counter: Counter, engines: list[Engine]
) -> None:
    """All is trained in transformers, and asked of the engine, in one batch."""
    report = run_study("comparison", bench.recipe(*SMALL, "engine=vllm"))
    trained, found, asked = list(counter.fits), answers(bench), len(counter.arms)
    assert len(trained) == 3  # the words, the answers, the constant
    assert set(engines[0].rows) == {6}
    again = run_study("comparison", bench.recipe(*SMALL))
    assert counter.fits == trained
    assert len(counter.arms) == 2 * asked  # what was kept of the engine is not taken for its own
    assert answers(bench) == found
    assert report.table().row_count == again.table().row_count


def test_each_study_ends_its_engine(bench: Bench, engines: list[Engine]) -> None:
    studies = "studies={comparison: {bits: null}, rate: {lengths: [2], items: 4}}"
    recipe = bench.recipe(*SMALL, "engine=vllm", studies)
    for measurement in measurements(recipe):
        measurement.run()
        assert not engines[-1].open
    assert len(engines) == 2
    with ending_engines():
        model: Any = loading.load_in(str(bench.models["receiver"]), engine="vllm")
        assert model.open
    assert not model.open


def test_a_sender_of_the_same_model_is_in_the_engine(
    bench: Bench, engines: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    same = f"pair.sender.model={bench.models['receiver']}"
    for settings in (same,), ():
        channels = "[handoff, oracle]" if settings else "[text]"
        ready = made(
            bench.recipe("engine=vllm", f"comparison.channels={channels}", SMALL[1], *settings),
            RelayPipelines.of,
        )
        for pipeline in ready.found.pipelines.values():
            sender, receiver = (agent.model for agent in pipeline.agents.values())
            assert receiver is engines[-1]
            assert (sender is receiver) == bool(settings)
        told = " ".join(capsys.readouterr().err.split())
        assert ("stays in transformers: a process has one engine" in told) != bool(settings)
        del ready, pipeline, sender, receiver
        engines.clear()


def test_nothing_is_trained_in_an_engine(bench: Bench, engines: list[Engine]) -> None:
    ready = made(bench.recipe("engine=vllm", *SMALL), RelayPipelines.of)
    (bench.out / "trained").rename(bench.home / "elsewhere")
    with pytest.raises(AssertionError, match="is trained before"):
        RelayPipelines.of(ready.relay)


def test_answers_of_engines_are_kept_apart(bench: Bench) -> None:
    relay = bench.relay()
    plain, engine = relay.without_messages(), Engine(relay.receiver)
    (agent,) = plain.agents.values()
    other: Any = type(agent)("receiver", engine, role=agent.role, settings=agent.settings)
    assert key_of(plain) != key_of(Pipeline([other]))


def test_a_result_names_the_version_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.32.0"))
    assert about_machine()["versions"]["vllm"] == "0.32.0"


def test_without_vllm_nothing_is_trained(
    bench: Bench, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match="make vllm"):
        made(bench.recipe("engine=vllm", *SMALL), RelayPipelines.of)
    assert not counter.fits


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("comparison.lora={lr: 1.0e-3}",), "set comparison.lora=null, or engine=transformers"),
        (("pair.receiver.device=cpu",), "got pair.receiver.device=cpu; leave it out"),
        (("engine=vlm",), "'transformers' or 'vllm'"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_the_recipe(
    bench: Bench, settings: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        bench.recipe("engine=vllm", *settings)


def test_plans_are_compared_in_transformers() -> None:
    with pytest.raises(RecipeError, match="got engine=vllm; set engine=transformers"):
        load_recipe("planner_executor", ["engine=vllm"])


def test_a_recipe_may_say_how_many_are_asked_at_a_time(bench: Bench) -> None:
    assert bench.recipe().compared.batch_size == 16
    assert bench.recipe("engine=vllm").compared.batch_size == 256
    assert bench.recipe("engine=vllm", "comparison.batch_size=8").compared.batch_size == 8
