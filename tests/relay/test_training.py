"""What is trained: kept whole or not at all, found again, and refused where it does not fit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.bench import Bench, Counter
from tests.randomness import untouched
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Embedding
from unspoken.errors import (
    IncompatibleModels,
    StorageError,
    TrainingError,
)
from unspoken.files import sha256
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector, FreeVectors
from unspoken.recipe.parts import FreeSettings, LoraSettings
from unspoken.relay import train as training
from unspoken.relay.pipelines import RelayPipelines
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_lora, train_projector, train_vectors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Bench:
    """A bench on which all that its recipe asks for was trained, once."""
    bench = Bench(tmp_path_factory.mktemp("trained"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        recipe = bench.recipe()
        RelayPipelines.of(Relay.of(recipe))
    return bench


def trained(bench: Bench) -> Path:
    (home,) = (bench.out / "trained").glob("projector-*")
    return home


def test_a_trained_projector_loads_and_its_card_says_how(finished: Bench) -> None:
    bench = finished
    home = trained(bench)
    projector = EmbeddingProjector.from_pretrained(home)
    sender, receiver = (
        Backbone.from_pretrained(str(bench.models[side])) for side in ("sender", "receiver")
    )
    assert projector.source_weights == sender.fingerprint
    assert projector.target_weights == receiver.fingerprint
    Embedding(str(home)).check(sender.spec, receiver.spec)
    card = (home / "README.md").read_text(encoding="utf-8")
    history = json.loads((home / "history.json").read_text(encoding="utf-8"))
    best = {name: min(v for _, v in stage["validation"]) for name, stage in history.items()}
    for said in (
        str(bench.models["sender"]),
        str(bench.models["receiver"]),
        sender.fingerprint,
        receiver.fingerprint,
        "jsonl (17 training and 4 validation items, seed 0)",
        f"warmup: 4 steps, best validation loss {best['warmup']:.3f}",
        f"training: 4 steps, best validation loss {best['training']:.3f}",
        "both models frozen",
    ):
        assert said in card


def test_free_vectors_load_and_know_their_receiver(finished: Bench) -> None:
    bench = finished
    receiver = Backbone.from_pretrained(str(bench.models["receiver"]))
    for what, count in (("reader", 2), ("constant", 3)):
        (home,) = (bench.out / "trained").glob(f"{what}-*")
        vectors = FreeVectors.from_pretrained(home)
        assert vectors.values.shape == (count, 32)
        assert vectors.target_weights == receiver.fingerprint


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("llama", {"width": 64}, "maps width 24 to 32, but receiver .* embeds 64"),
        ("llama", {"seed": 1}, "trained with receiver weights .*, but receiver .* has"),
    ],
)
def test_a_projector_for_another_receiver_is_refused_with_the_remedy(
    kind: str,
    options: dict[str, int],
    said: str,
    finished: Bench,
    tiny: Callable[..., Backbone],
) -> None:
    bench = finished
    sender, receiver = tiny("gemma", width=24), tiny(kind, **options)
    agents = [
        Agent("a", sender, role=Role(template="{context}", chat=False)),
        Agent("b", receiver),
    ]
    channel = Embedding(str(trained(bench)))
    with pytest.raises(IncompatibleModels, match=said) as refused:
        Pipeline(agents, [Edge("a", "b", channel)])
    remedy = "train one with: unspoken train relay_projector"
    assert f"{remedy} pair.sender.model={sender.name} pair.receiver.model={receiver.name}" in str(
        refused.value
    )
    agents[1] = Agent("b", tiny("llama"))
    Pipeline(agents, [Edge("a", "b", channel)])  # the model that it was trained for


def test_layers_that_the_sender_lacks_are_refused_before_any_pass(
    bench: Bench, counter: Counter
) -> None:
    relay = bench.relay("projector.layers=[0, 4]")
    with pytest.raises(IncompatibleModels, match=r"reads layers \[0, 4\], but sender .* has 3"):
        train_projector(relay, bench.out)
    assert counter.passes == 0


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_frozen_weight_that_moves_is_an_error(
    side: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = bench.relay()
    fit = training.fit

    def spoil(*given: Any, **options: Any) -> Any:
        found = fit(*given, **options)
        weight = next(getattr(relay, side).model.parameters())
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
        return found

    monkeypatch.setattr(training, "fit", spoil)
    with pytest.raises(TrainingError, match="changed the frozen weights of .*" + side):
        train_projector(relay, bench.out)
    assert not list(bench.out.glob("projector-*"))


def test_training_that_was_stopped_goes_on(
    bench: Bench, finished: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = bench.out / "trained"
    score, calls = Backbone.score, list[int]()

    def stop(model: Backbone, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # in the second half of the second stage
            raise KeyboardInterrupt
        return score(model, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "score", stop)
        with pytest.raises(KeyboardInterrupt):
            train_projector(bench.relay(), home)
    assert not list(home.glob("projector-*"))
    train_projector(bench.relay(), home)
    assert sha256(trained(bench) / "model.safetensors") == sha256(
        trained(finished) / "model.safetensors"
    )


def _trained_control(what: str, relay: Relay, folder: Path) -> dict[str, Any]:
    """The weights of a control after training. A file may hold them in any order."""
    if what == "lora":
        train_lora(relay, LoraSettings(lr=1e-2), 4000, folder)
    else:
        train_vectors(relay, FreeSettings(vectors=2, lr=1e-2), folder, what=what)
    (found,) = folder.glob(f"{what}-*/*.safetensors")
    return {name: values.tolist() for name, values in load_file(found).items()}


@pytest.mark.parametrize("what", ["reader", "constant", "lora"])
def test_a_control_is_the_same_again_and_after_five_kills(
    what: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, score, calls = bench.relay(), Backbone.score, list[int]()
    with untouched():
        wanted = _trained_control(what, relay, bench.out / "one")
    torch.rand(3)
    assert _trained_control(what, relay, bench.out / "two") == wanted
    stops = [1, 2, 4, 2, 1]  # the third is behind a checkpoint

    def stop(model: Backbone, *given: Any) -> Any:
        calls.append(1)
        if stops and len(calls) == stops[0]:
            raise KeyboardInterrupt
        return score(model, *given)

    monkeypatch.setattr(Backbone, "score", stop)
    while stops:
        calls.clear()
        with untouched(), pytest.raises(KeyboardInterrupt):
            _trained_control(what, relay, bench.out / "three")
        del stops[0]
        torch.rand(3)
    assert _trained_control(what, relay, bench.out / "three") == wanted
    other = bench.relay("seed=1")
    assert _trained_control(what, other, bench.out / "four") != wanted


@pytest.mark.parametrize("moment", ["weights", "card", "checkpoint"])
def test_a_full_disk_leaves_nothing_half_written(
    moment: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = bench.relay()
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: Any, **__: Any) -> None:
        raise full

    with monkeypatch.context() as patch:
        match moment:
            case "weights":  # safetensors has an error of its own for this
                words = "Error while serializing: I/O error: No space left (os error 28)"

                def told(*_: Any, **__: Any) -> None:
                    raise SafetensorError(words)

                patch.setattr(EmbeddingProjector, "_save_pretrained", told)
            case "card":
                patch.setattr(Path, "write_text", fail)
            case _:
                fsync, calls = os.fsync, list[int]()

                def third(handle: int) -> None:
                    calls.append(1)
                    if len(calls) == 3:  # after the states and the first checkpoint
                        raise full
                    fsync(handle)

                patch.setattr("os.fsync", third)
        with pytest.raises(StorageError, match="No space left on device; nothing was changed"):
            train_projector(relay, bench.out)
    left = [path.relative_to(bench.out) for path in bench.out.rglob("*") if path.is_file()]
    assert all(path.suffix == ".pt" for path in left), left
    assert train_projector(relay, bench.out)[1].is_dir()


def test_finished_training_keeps_no_checkpoints_and_removes_those_of_a_killed_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = bench.recipe(), bench.out / "trained"
    seen: list[str] = []
    save = training.save

    def killed(home: Path, write: Callable[[Path], object]) -> None:
        save(home, write)
        seen.extend(path.name for path in home.with_name(f".{home.name}").iterdir())
        raise KeyboardInterrupt  # whole, and its checkpoints are still there

    monkeypatch.setattr(training, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_projector(Relay.of(recipe), folder)
    monkeypatch.setattr(training, "save", save)
    assert sorted(seen) == ["answers.pt", "words.pt"]
    (left,) = folder.glob(".projector-*")
    (left / ".words.pt.12345678.unfinished").touch()
    train_projector(Relay.of(recipe), folder)  # finds it, and trains nothing
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["projector"]
