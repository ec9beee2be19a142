"""What a pair of models is made of by its recipe, and what is trained for it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.bench import Bench, Counter
from unspoken.projectors import EmbeddingProjector
from unspoken.relay.pipelines import RelayPipelines, curves
from unspoken.relay.train import train_projector


def test_the_settings_of_a_task_decide_what_is_trained_anew(bench: Bench) -> None:
    def place(*more: str) -> str:
        relay = bench.relay("warmup.steps=0", "training.steps=1", *more)
        return train_projector(relay, bench.out / "trained")[1].name

    first = place()
    assert place() == first
    others = [
        place(*more)
        for more in (
            ("seed=1",),
            ("training.steps=2",),
            ("projector.hidden=8",),
            ("validation=3",),
            ("task.protocol=shared",),
            ("prompts.instruction=Say.",),
            (f"pair.receiver.model={bench.models['other']}",),
            ("pair.receiver.dtype=bfloat16",),
        )
    ]
    assert len({first, *others}) == 9


@pytest.mark.parametrize(
    "settings",
    [
        ["projector.vectors=3"],
        ["projector.prompt=0"],
        ["projector.layers=[1, -1]"],
        ["warmup.bf16=false"],
        ["warmup.steps=0", "training.bf16=false"],
    ],
    ids=str,
)
def test_projectors_of_every_shape_are_trained(bench: Bench, settings: list[str]) -> None:
    projector, home = train_projector(bench.relay(*settings), bench.out)
    again = EmbeddingProjector.from_pretrained(home)
    for name, value in projector.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    stages = json.loads((home / "history.json").read_text())
    warm = not {"warmup.steps=0", "projector.vectors=3"} & set(settings)
    assert list(stages) == (["warmup", "training"] if warm else ["training"])


def test_worked_examples_are_not_trained_on(bench: Bench) -> None:
    relay = bench.relay("prompts.shots=3")
    assert len(relay.shots) == 3
    assert not {item.id for item in relay.shots} & {item.id for item in relay.train}
    assert all(item.context in relay.instructions for item in relay.shots)
    assert len(relay.train) == len(relay.task.train) - 3


def test_every_condition_hears_the_same_lead(bench: Bench) -> None:
    relay = bench.relay()
    lines = [relay.full_text(), relay.text()]
    assert {line.answerer.role.instructions for line in lines} == {relay.instructions}


def test_models_are_loaded_as_the_recipe_asks(bench: Bench) -> None:
    relay = bench.relay("pair.receiver.dtype=bfloat16")
    assert (relay.sender.dtype, relay.receiver.dtype) == (torch.float32, torch.bfloat16)
    assert bench.relay(f"pair.sender.model={bench.models['receiver']}").sender.fingerprint
    same = bench.relay(f"pair.sender.model={bench.models['receiver']}")
    assert same.sender is same.receiver


def test_a_tuned_reader_and_a_constant_can_be_left_out(bench: Bench, counter: Counter) -> None:
    channels = "comparison.channels=[full-text, text, embedding]"
    relay = bench.relay(channels, "comparison.reader=null", "comparison.constant=null")
    found = RelayPipelines.of(relay)
    assert (list(found.pipelines), found.constants) == (["full-text", "text", "embedding"], {})
    assert list(dict(curves(relay))) == ["full-text", "text", "embedding"]
    assert counter.fits == ["projector, words", "projector, answers"]
