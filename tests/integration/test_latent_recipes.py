"""The recipes of projected memories and of fusion, from training to report, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.bench import run_study
from unspoken.backbone import Backbone
from unspoken.errors import RecipeError
from unspoken.projectors import Fuser, MemoryProjector
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_lora, train_projector
from unspoken.relay.trained import trained_pipeline
from unspoken.results import write_page

SMALL = {
    "memory": ["projector.width=56", "projector.hidden=16", "projector.prompt=2"],
    "fusion": ["projector.hidden=16", "projector.inner=16", "task.protocol=closed"],
}
PROTOCOLS = [("memory", "private"), ("fusion", "closed"), ("fusion", "shared")]


def items(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{n}",
            "context": f"{split} {n} likes {'tea' if n % 2 else 'milk'} {n}.",
            "question": f"What does {split} {n} like?",
            "answers": [f"{'tea' if n % 2 else 'milk'} {n}"],
        }
        for n in range(count)
    ]


@pytest.fixture
def settings(tmp_path: Path, tiny: Callable[..., Backbone]) -> list[str]:
    """Two tiny models with unlike caches and a task, as a recipe's overrides."""
    for name, backbone in {"sender": tiny("gemma", width=24), "receiver": tiny("llama")}.items():
        cast(Any, backbone.model).save_pretrained(tmp_path / name)
        backbone.tokenizer.save_pretrained(tmp_path / name)
    for split, count in {"train": 24, "test": 6}.items():
        lines = (json.dumps(item) + "\n" for item in items(split, count))
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return [
        f"pair.sender.model={tmp_path / 'sender'}",
        f"pair.receiver.model={tmp_path / 'receiver'}",
        f"task.train={tmp_path / 'train.jsonl'}",
        f"task.test={tmp_path / 'test.jsonl'}",
        "task.validation=4",
        "validation=4",
        "prompts={instruction: Answer., shots: 1, note_instructions: '', note_tokens: 4}",
        "prompts.answer_tokens=4",
        "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
        "comparison.reader.vectors=2",
        "comparison.constant.vectors=3",
        "comparison.limit=5",
        f"out={tmp_path / 'out'}",
    ]


def relay_recipe(kind: str, settings: list[str], *more: str) -> RelayRecipe:
    recipe = load_recipe(kind, [*settings, *SMALL[kind], "studies={}", *more])
    assert isinstance(recipe, RelayRecipe)
    return recipe


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_a_recipe_trains_and_compares_with_all_controls(
    settings: list[str], kind: str, protocol: str
):
    recipe = relay_recipe(kind, settings, f"task.protocol={protocol}")
    report = run_study("comparison", recipe)
    conditions = [arm.condition for arm in report.arms if arm.channel == kind]
    assert conditions == ["none", "matched", "deranged", "constant", "lora"]
    worth = report.worth(kind)
    assert worth.over_constant is not None
    assert worth.over_lora is not None
    assert report.notes["projector_parameters"] > 0
    assert "above lora" in report.markdown()
    page = write_page(recipe.out).read_text(encoding="utf-8")
    assert "above lora" in page
    assert ("Gates of the fuser" in page) == (kind == "fusion")
    assert report.arm(kind, "matched").wire_bytes > 0
    assert report.arm(kind, "lora").wire_bytes == 0
    again = run_study("comparison", recipe)
    assert [arm.correct for arm in again.arms] == [arm.correct for arm in report.arms]


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_every_latent_channel_is_measured_in_bits(
    settings: list[str], kind: str, protocol: str, tmp_path: Path
):
    more = (f"task.protocol={protocol}", f"comparison.channels=[{kind}]")
    report = run_study("information", relay_recipe(kind, settings, *more), items=4)
    found = {one.channel: one for one in report.channels}
    assert list(found) == [kind, f"{kind}, constant", f"{kind}, noise"]
    assert report.spoken is None  # nobody writes
    assert found[kind].bits.value != 0
    assert found[f"{kind}, constant"].bits.value == 0
    assert found[kind].positions == found[f"{kind}, noise"].positions
    assert found[kind].bits.value != pytest.approx(found[f"{kind}, noise"].bits.value)
    trained = [path.name for path in (tmp_path / "out" / "trained").iterdir()]
    assert any(name.startswith("projector-") for name in trained)
    assert not any(name.startswith("lora-") for name in trained)  # it hears no messages


def test_bits_are_measured_on_the_task_that_is_asked(settings: list[str], tmp_path: Path):
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items("elsewhere", 5)))
    transfer = (
        f"comparison.transfer={{train: {tmp_path / 'train.jsonl'}, test: {path}, validation: 2}}"
    )
    recipe = relay_recipe("memory", settings, transfer, "comparison.channels=[full-text]")
    report = run_study("information", recipe, items=4, samples=0)
    assert all(row["id"].startswith("elsewhere") for row in report.channels[0].items)
    assert report.notes["trained_on"] == "jsonl"


def test_what_was_trained_on_one_task_is_asked_about_another(settings: list[str], tmp_path: Path):
    other = items("test", 4) + items("elsewhere", 5) + items("train", 3)
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in other))
    lean = [*settings, "comparison.channels=[memory]", "comparison.lora=null"]
    usual = run_study("comparison", relay_recipe("memory", lean))
    transfer = (
        f"comparison.transfer={{train: {tmp_path / 'train.jsonl'}, test: {path}, validation: 2}}"
    )
    report = run_study(
        "comparison", relay_recipe("memory", lean, transfer, "comparison.limit=null")
    )
    assert report.task["items"] == 4 + 5  # what was trained on is not asked
    assert report.task["overlap"]["dropped"] == 3
    assert not any(report.task["overlap"]["facts"].values())
    assert report.notes["trained_on"] == "jsonl"
    assert "trained_on" not in usual.notes
    assert len(list((tmp_path / "out" / "trained").glob("projector-*"))) == 1


def test_an_oracle_drops_the_examples(settings: list[str]):
    relay = Relay.of(relay_recipe("memory", settings))
    whole, oracle = relay.handoff_sender(), relay.oracle()
    assert oracle.answerer.role.instructions == ""
    (edge,) = oracle.edges
    sender = oracle.agents[edge.sender]
    assert sender.role == whole.role
    state, _ = sender.compute({"context": ("a fact",)}, needs=edge.channel.needs)
    said = edge.channel.send(state).payload
    assert said.batch == 1
    assert oracle.run({"context": "a fact", "question": "what?"}).usage.wire > 0


@pytest.mark.parametrize("kind", ["memory", "fusion"])
def test_a_trained_module_loads_as_it_was(settings: list[str], tmp_path: Path, kind: str):
    relay = Relay.of(relay_recipe(kind, settings))
    trained, home = train_projector(relay, tmp_path / "trained")
    loaded, _ = train_projector(relay, tmp_path / "trained")
    assert type(loaded) is {"memory": MemoryProjector, "fusion": Fuser}[kind]
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    query = {"context": "somebody likes tea", "question": "What does somebody like?"}
    runs = [trained_pipeline(relay, module).run(query) for module in (trained, loaded)]
    assert runs[0].answer == runs[1].answer
    card = (home / "README.md").read_text()
    assert "validation items, seed 0" in card
    if isinstance(trained, Fuser):
        opened = sum(gate.key > 0 for gate in trained.gates())
        assert f"* gates open: {opened} for keys, " in card
        assert (home / "gates.svg").read_text().startswith("<?xml")


def test_a_closed_form_start_explains_what_both_have_read(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    relay = Relay.of(relay_recipe("memory", settings, "training.steps=0"))
    train_projector(relay, tmp_path / "trained")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "closed-form" in line)
    assert 20 < int(line.split("start: ")[1].split("%")[0]) <= 100


def test_lora_leaves_the_receiver_as_it_is(settings: list[str], tmp_path: Path):
    recipe = relay_recipe("memory", settings)
    assert recipe.compared.lora is not None
    relay = Relay.of(recipe)
    before = relay.receiver.digest()
    adapted = train_lora(relay, recipe.compared.lora, 5000, tmp_path / "trained")
    assert relay.receiver.digest() == before
    assert adapted.fingerprint != relay.receiver.fingerprint
    again = train_lora(relay, recipe.compared.lora, 5000, tmp_path / "trained")
    assert again.fingerprint == adapted.fingerprint
    line = replace(relay, receiver=adapted).without_messages()
    assert line.answerer.model is adapted


def test_a_channel_of_another_kind_is_refused():
    with pytest.raises(RecipeError, match=r"channels name 'embedding'.*projector\.kind=memory"):
        load_recipe("memory", ["comparison.channels=[embedding]", "studies={}"])
