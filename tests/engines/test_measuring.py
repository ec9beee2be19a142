"""The tables of a recipe are the same with its receiver in vLLM, row for row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import Bench
from tests.engines.conftest import close_all
from tests.studies.edges.test_recipe import settings_of
from unspoken.evaluation.store import read_rows
from unspoken.recipe import load_recipe, measurements
from unspoken.testing import tiny_backbone

pytestmark = pytest.mark.vllm

RELAY = ("comparison.channels=[full-text, text, embedding]",)
MEMORY = (
    "comparison.channels=[memory]",
    "comparison.lora=null",
    "comparison.reader=null",
    "projector.width=80",
    "projector.texts=12",
    "warmup.lr=1.0e-3",
)
SAME = ("comparison.channels=[handoff, oracle]", "comparison.reader=null")


@pytest.fixture
def bench(tmp_path: Path, folder: Path) -> Bench:
    """A sender with windows, which stays in transformers, and a receiver that vLLM takes."""
    close_all()
    sender = tiny_backbone("gemma", width=24)
    sender.model.save_pretrained(tmp_path / "sender")
    sender.tokenizer.save_pretrained(tmp_path / "sender")
    return Bench(tmp_path, {"sender": tmp_path / "sender", "receiver": folder})


def measured(bench: Bench, name: str, engine: str, *settings: str) -> dict[str, list[str]]:
    """The answers of each arm. Both engines find what the first of them has trained."""
    out = bench.home / engine
    more = (*settings, f"engine={engine}", f"out={out}", f"trained={bench.out}")
    for study in measurements(load_recipe(name, bench.settings(*more))):
        study.run()
    return {
        path.stem: [row["prediction"] for row in read_rows(path)]
        for path in sorted((out / "predictions").iterdir())
    }


@pytest.mark.parametrize(
    ("name", "settings", "arms"),
    [("relay", RELAY, 16), ("memory", MEMORY, 4), ("relay", SAME, 6)],
    ids=["relay", "memory", "handoff"],
)
def test_every_answer_is_the_same(
    name: str, settings: tuple[str, ...], arms: int, bench: Bench
) -> None:
    more = [*settings, "studies={comparison: {bits: null}}"]
    if settings is SAME:
        more.append(f"pair.sender.model={bench.models['receiver']}")
    right = measured(bench, name, "transformers", *more)
    assert measured(bench, name, "vllm", *more) == right
    assert len(right) == arms
    assert len({answer for arm in right.values() for answer in arm}) > 3


def test_one_recipe_may_list_several_studies(bench: Bench) -> None:
    """Each starts an engine and ends it. What was trained for the first is not trained again."""
    studies = "studies={comparison: {bits: 4}, rate: {lengths: [2], items: 4}}"
    channels = ("comparison.channels=[text, embedding]", "comparison.reader=null")
    measured(bench, "relay", "vllm", *channels, studies)
    trained = sorted(path.name for path in bench.out.iterdir())
    assert [name.partition("-")[0] for name in trained] == ["constant", "projector"]


def test_agents_of_a_pipeline_are_measured(bench: Bench) -> None:
    """Edges over words and caches are worth the same, by scores and by answers."""
    found: list[Any] = []
    settings = settings_of(bench.home, bench.models)
    for engine in ("transformers", "vllm"):
        engines = [f"agents.{n}.engine={engine}" for n in (0, 2, 3, 4, 5)]
        out = bench.home / engine
        more = [*engines, "studies.edges.graph=null", f"out={out}"]
        (study,) = measurements(load_recipe("edges", [*settings, *more]))
        found.append(study.run())
    right, report = found
    for edge, other in zip(report.edges, right.edges, strict=True):
        assert edge.gain_bits.value == pytest.approx(other.gain_bits.value, abs=1e-2)
        assert edge.wire == other.wire
    for arm, other in zip(report.arms, right.arms, strict=True):
        assert (arm.accuracy, arm.wire_bytes) == (other.accuracy, other.wire_bytes)
