"""What every trained channel promises, for each line of `TRAINED` in `cases.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.randomness import untouched
from unspoken import load_pipeline
from unspoken.audit import listen
from unspoken.backbone import Backbone
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Pipeline
from unspoken.projectors import Projector, load_projector
from unspoken.recipe.parts import ChannelSource
from unspoken.relay import train as training
from unspoken.relay.relay import Relay
from unspoken.relay.trained import trained_channel, trained_pipeline
from unspoken.testing import tiny_backbone

from ..pairs import QUERY, recipe_of, relay_of
from .cases import TRAINED

pytestmark = pytest.mark.numbers

Settings = dict[str, Any]
PREFIXES = ("kind", "layers", "vectors", "words")


@dataclass(frozen=True)
class Trained:
    """A pair whose projector was trained, and where it lies."""

    settings: Settings
    relay: Relay
    projector: Projector
    home: Path

    @property
    def pipeline(self) -> Pipeline:
        return trained_pipeline(self.relay, self.projector)


def steps(settings: Settings) -> Settings:
    """Stages of training without steps, where there is nothing to train."""
    none = {"steps": 0, "lr": 1.0}
    return {} if trained_channel(settings["kind"]).trainable else {"training": none}


def named(settings: Settings) -> str:
    return "-".join(str(settings[name]) for name in PREFIXES if name in settings)


def tensors(projector: Projector) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in projector.state_dict().items()}


def same(left: Projector, right: Projector) -> bool:
    one, two = tensors(left), tensors(right)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="session", params=TRAINED, ids=named)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(folder / "cache"))
        relay = relay_of(request.param, folder, **steps(request.param))
        return Trained(request.param, relay, *training.train_projector(relay, folder))


def test_it_knows_its_kind_and_its_classes(trained: Trained):
    kind, settings = trained_channel(trained.settings["kind"]), trained.relay.recipe.projector
    assert type(settings) is kind.settings
    assert settings.kind == trained.settings["kind"]
    assert type(trained.projector) is kind.projector
    assert kind.__doc__


def test_a_recipe_keeps_its_settings_and_names_wrong_ones(trained: Trained, tmp_path: Path):
    recipe = trained.relay.recipe
    assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(ValidationError) as refused:
        recipe_of({**trained.settings, "nonsense": 1}, tmp_path)
    assert [error["loc"] for error in refused.value.errors()] == [("projector", "nonsense")]


def test_it_is_loaded_as_it_was_trained(trained: Trained):
    loaded = load_projector(trained.home)
    assert type(loaded) is type(trained.projector)
    assert not loaded.training
    assert same(loaded, trained.projector)
    runs = [trained_pipeline(trained.relay, one).run(QUERY) for one in (loaded, trained.projector)]
    assert runs[0].answer == runs[1].answer
    assert runs[0].usage.wire == runs[1].usage.wire


def test_its_pipeline_is_one_call_away(trained: Trained):
    relay, card = trained.relay, (trained.home / "README.md").read_text()
    pipeline = load_pipeline(trained.home, sender=relay.sender, receiver=relay.receiver)
    runs = [one.run(QUERY) for one in (pipeline, trained.pipeline)]
    assert runs[0].answer == runs[1].answer
    assert runs[0].usage.wire == runs[1].usage.wire
    assert f'pipeline = load_pipeline("{trained.home}")' in card


def test_what_is_there_is_not_trained_again(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("it is trained already")

    monkeypatch.setattr(training, "_trained", refuse)
    projector, home = training.train_projector(trained.relay, trained.home.parent)
    assert home == trained.home
    assert same(projector, trained.projector)


def test_a_recipe_leads_to_the_same_weights(trained: Trained, tmp_path: Path):
    torch.rand(3)  # whatever was drawn before
    with untouched():
        again, home = training.train_projector(trained.relay, tmp_path)
    assert home.name == trained.home.name
    assert same(again, trained.projector)


def test_another_seed_leads_to_other_weights(trained: Trained, tmp_path: Path):
    if not trained.relay.recipe.training.steps:
        pytest.skip("nothing is trained")
    relay = relay_of(trained.settings, tmp_path, **steps(trained.settings), seed=5)
    other, home = training.train_projector(relay, tmp_path)
    assert home.name != trained.home.name
    assert not same(other, trained.projector)


def test_a_training_that_was_stopped_five_times_goes_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not trained.relay.recipe.training.steps:
        pytest.skip("nothing is trained")
    score, calls = Backbone.score, list[int]()
    stops = [1, 2, 5, 2, 1]  # the third is behind a checkpoint: two steps and a validation

    def stop(model: Backbone, *given: Any) -> Any:
        calls.append(1)
        if stops and len(calls) == stops[0]:
            raise KeyboardInterrupt
        return score(model, *given)

    monkeypatch.setattr(Backbone, "score", stop)
    while stops:
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            training.train_projector(trained.relay, tmp_path)
        del stops[0]
        torch.rand(3)
    assert same(training.train_projector(trained.relay, tmp_path)[0], trained.projector)


def test_every_parameter_is_trained_and_no_model(trained: Trained):
    """`fit` refuses a parameter that does not move, and `train_projector` a model that does."""
    history = json.loads((trained.home / "history.json").read_text())
    assert ("training" in history) == bool(trained.relay.recipe.training.steps)
    assert all(stage["train"] and stage["validation"] for stage in history.values())


def test_a_message_arrives_and_counts(trained: Trained):
    pipeline = trained.pipeline
    (edge,) = pipeline.edges
    assert list(pipeline.agents) == [edge.sender, edge.receiver]
    other = {**QUERY, "context": "nobody has 77 of them", "question": "Why not so?"}
    runs = pipeline.run_many([QUERY, other])
    alone = pipeline.without_messages().run(QUERY)
    assert all(run.usage.wire > 0 for run in runs)
    assert runs[0].turns[-1].usage.read >= alone.turns[-1].usage.read


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_other_weights_are_refused_with_the_remedy(trained: Trained, side: str):
    pipeline = trained.pipeline
    other: dict[str, Callable[[], Backbone]] = {
        "sender": lambda: tiny_backbone("gemma", width=24, seed=1),
        "receiver": lambda: tiny_backbone("llama", seed=1),
    }
    relay = relay_of(trained.settings, trained.home, **steps(trained.settings))
    models = {"sender": relay.sender, "receiver": relay.receiver, side: other[side]()}
    with pytest.raises(IncompatibleModels) as refused:
        trained_pipeline(
            Relay(relay.recipe, models["sender"], models["receiver"], relay.task), trained.projector
        )
    assert "; train " in str(refused.value)
    assert len(pipeline.agents) == 2


def test_only_a_closed_form_is_fitted_on_the_way(trained: Trained, tmp_path: Path):
    kind = trained_channel(trained.settings["kind"])
    if kind.closed_form:
        source = ChannelSource(name="x", projector=trained.settings)
        assert source.projector == trained.relay.recipe.projector
        none = {"steps": 0, "lr": 1.0}
        relay = relay_of(trained.settings, tmp_path, warmup=none, training=none)
        projector, _ = training.train_projector(relay, tmp_path)
        assert trained_pipeline(relay, projector).run(QUERY).usage.wire > 0
    else:
        with pytest.raises(ValidationError, match="has to be trained"):
            ChannelSource(name="x", projector=trained.settings)
        assert kind.trainable


def test_what_has_nothing_to_train_refuses_steps(trained: Trained, tmp_path: Path):
    if trained_channel(trained.settings["kind"]).trainable:
        assert any(p.requires_grad for p in trained.projector.parameters())
    else:
        assert not list(trained.projector.parameters())
        with pytest.raises(ValidationError, match=r"nothing to train; set training\.steps=0"):
            recipe_of(trained.settings, tmp_path)


def test_a_model_reads_a_message_by_the_folder_alone(trained: Trained, tmp_path: Path):
    """As `unspoken inspect MESSAGE --model RECEIVER --projector FOLDER` does."""
    receiver = trained.relay.receiver
    receiver.model.save_pretrained(tmp_path)
    receiver.tokenizer.save_pretrained(tmp_path)
    pipeline = trained.pipeline
    (edge,) = pipeline.edges
    state, _ = pipeline.agents[edge.sender].compute(
        {name: (words,) for name, words in QUERY.items()}, needs=edge.channel.needs
    )
    found = listen(edge.channel.send(state), str(tmp_path), str(trained.home))
    assert len(found["reading"]) == 1
