"""A trained pair from its folder: one call, without the recipe, the task or the training data."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unspoken import load_pipeline
from unspoken.backbone import Backbone
from unspoken.errors import IncompatibleModels, PairError, TrainingError
from unspoken.pipeline import Pipeline
from unspoken.projectors import FreeVectors, load_projector
from unspoken.relay import train as training
from unspoken.relay.pair import Pair, PairedAgent
from unspoken.relay.train import train_projector
from unspoken.relay.trained import trained_pipeline
from unspoken.testing import tiny_backbone, tiny_diffusion
from unspoken.types import Settings
from unspoken.wire import Int8

from ..bench import Bench
from ..pairs import QUERY, relay_of

OTHERS = [QUERY, {"context": "nobody likes milk 8.", "question": "What does nobody like?"}]


@pytest.fixture
def bench(tmp_path: Path, folders: dict[str, Path]) -> Bench:
    """A bench with models of its own, which a test may move."""
    sides = {
        side: shutil.copytree(folders[side], tmp_path / side) for side in ("sender", "receiver")
    }
    return Bench(tmp_path, sides)


def trained(bench: Bench, *more: str) -> tuple[Pipeline, Path]:
    """A pair trained by a recipe on files, as it answers behind its training."""
    relay = bench.relay("comparison.channels=[full-text]", *more)
    projector, home = train_projector(relay, relay.recipe.out / "trained")
    return trained_pipeline(relay, projector), home


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """The folder of a trained pair, which no test may change."""
    home = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(home / "cache"))
        return trained(Bench(home, folders))[1]


@pytest.fixture
def home(pair_folder: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(pair_folder, tmp_path / "home")


def answers(pipeline: Pipeline) -> list[tuple[str, int]]:
    return [(run.answer, run.usage.wire) for run in pipeline.run_many(OTHERS)]


def block(card: str) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", card, re.S)
    return found


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("projector={kind: memory, width: 56, hidden: 16}", "comparison.pack={kind: int8}"),
        ("projector={kind: fusion, hidden: 16, inner: 16, opening: true}", "task.protocol=shared"),
        ("projector={kind: ridge, layers: [2], texts: 20}", "task.protocol=closed"),
        ("projector={kind: mixing}", "training.steps=0", "pair.receiver.dtype=bfloat16"),
    ],
    ids=["embedding", "memory", "fusion", "ridge", "mixing"],
)
def test_it_answers_as_it_was_trained_where_nothing_else_is_left(
    bench: Bench, tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    before, _ = trained(bench, *more)
    expected = answers(before)
    for name in ("train.jsonl", "test.jsonl", "cache"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    after = load_pipeline("../out")
    assert answers(after) == expected
    for name, agent in before.agents.items():
        assert after.agents[name].role == agent.role
        assert after.agents[name].settings == agent.settings
        assert after.agents[name].model.dtype == agent.model.dtype
    (old,), (new,) = before.edges, after.edges
    assert new.pack == old.pack
    assert new.channel.needs == old.channel.needs


def test_packing_is_kept(bench: Bench):
    _, home = trained(bench, "comparison.pack={kind: int8}")
    assert load_pipeline(home).edges[0].pack == Int8()


def test_models_that_are_named_relative_to_the_recipe_are_found_from_elsewhere(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before, home = trained(bench, "pair.sender.model=sender", "pair.receiver.model=receiver")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert answers(load_pipeline(home)) == answers(before)


def test_a_card_shows_what_works(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    before, home = trained(bench, "out=out")
    assert not home.is_absolute()
    code = block((home / "README.md").read_text())
    assert f'load_pipeline("{home.as_posix()}")' in code
    query = {"context": "Ada keeps a parrot.", "question": "What does Ada keep?"}
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out == before.run(query).answer + "\n"


def test_the_card_of_a_closed_task_tells_no_fact(bench: Bench):
    _, home = trained(bench, "task.protocol=closed")
    assert "context" not in block((home / "README.md").read_text())


def test_models_may_be_given_loaded_or_by_another_name(bench: Bench, tmp_path: Path):
    before, home = trained(bench)
    shutil.move(tmp_path / "sender", tmp_path / "moved")
    with pytest.raises(PairError, match=r"the sender of .*sender=\.\.\."):
        load_pipeline(home)
    receiver = before.agents["receiver"].model
    pipeline = load_pipeline(home, sender=str(tmp_path / "moved"), receiver=receiver, device="cpu")
    assert pipeline.agents["receiver"].model is receiver
    assert answers(pipeline) == answers(before)


def test_one_model_on_both_sides_is_loaded_once(bench: Bench, tmp_path: Path):
    _, home = trained(bench, f"pair.sender.model={tmp_path / 'receiver'}")
    pipeline = load_pipeline(home)
    assert pipeline.agents["sender"].model is pipeline.agents["receiver"].model


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_other_weights_and_words_are_refused(pair_folder: Path, side: str):
    kind, width = {"sender": ("gemma", 24), "receiver": ("llama", 32)}[side]
    options: dict[str, Any] = {side: tiny_backbone(kind, width=width, seed=1)}
    with pytest.raises(IncompatibleModels, match=rf"trained with {side} weights .*, but .* has"):
        load_pipeline(pair_folder, **options)
    other = tiny_backbone(kind, width=width)
    other.tokenizer.add_tokens(["<other>"])
    options = {side: Backbone(other.model, other.tokenizer)}
    with pytest.raises(IncompatibleModels, match=rf"trained with {side} tokenizer .*, but .* has"):
        load_pipeline(pair_folder, **options)


def test_a_folder_without_a_pair_says_what_to_give(tmp_path: Path):
    with pytest.raises(PairError, match="holds no trained pair; give the `out` of a recipe"):
        load_pipeline(tmp_path)
    with pytest.raises(PairError, match="holds no trained pair"):
        load_pipeline(tmp_path / "nowhere")


def test_of_several_pairs_one_has_to_be_named(bench: Bench, tmp_path: Path):
    trained(bench)
    before, home = trained(bench, "projector={kind: memory, width: 56, hidden: 16}")
    with pytest.raises(PairError, match="holds 2 trained pairs; name one of them") as refused:
        load_pipeline(tmp_path / "out")
    told = str(refused.value)
    names = f"from {tmp_path / 'sender'} to {tmp_path / 'receiver'}"
    assert f"{home}: memory {names}, width=56, hidden=16" in told
    assert f": embedding {names}, hidden=16, prompt=2" in told
    assert answers(load_pipeline(home)) == answers(before)


def test_a_folder_of_an_earlier_version_is_completed_without_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    before, home = trained(bench)
    kept = (home / "pair.json").read_bytes()
    (home / "pair.json").unlink()
    with pytest.raises(PairError, match=r"no pair\.json.*`unspoken train` with the recipe"):
        load_pipeline(home)

    def refuse(*_: Any) -> None:
        raise AssertionError("it is trained already")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_trained", refuse)
        trained(bench)
    assert (home / "pair.json").read_bytes() == kept
    assert answers(load_pipeline(home)) == answers(before)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "as it is no JSON"),
        ("{}", r"cannot be used: projector: Field required"),
        ('{"version": 2}', r"cannot be used: version: Input should be 1"),
        (
            '{"projector": {"kind": "nonsense"}}',
            r"cannot be used: projector: .*unknown kind of projector 'nonsense'",
        ),
    ],
)
def test_a_file_that_says_something_else_is_refused(home: Path, content: str, told: str):
    (home / "pair.json").write_text(content)
    with pytest.raises(PairError, match=told):
        load_pipeline(home)


def test_a_file_says_no_more_than_it_should(pair_folder: Path):
    """Words, settings and identities; nothing of the task's items but the worked examples."""
    kept = json.loads((pair_folder / "pair.json").read_text())
    digest = {"sha256"}
    assert set(kept) == {"version", "projector", "protocol", "pack", "sender", "receiver"} | digest
    assert kept["projector"]["kind"] == "embedding"
    assert kept["receiver"]["agent"]["instructions"].startswith("Answer.")
    assert kept["receiver"]["weights"] == load_projector(pair_folder).target_weights
    assert "likes" not in json.dumps(kept["sender"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"Answer.', '"Guess.', "is damaged: its content is not what its digest was made of; rem"),
        ('"sha256"', '"sha257"', "sha257: Extra inputs are not permitted"),
        ('"seed": 0', '"seed": NaN', "NaN is no finite number"),
    ],
)
def test_a_file_that_was_changed_is_refused(home: Path, old: str, new: str, told: str):
    text = (home / "pair.json").read_text()
    assert old in text
    (home / "pair.json").write_text(text.replace(old, new, 1))
    with pytest.raises(PairError, match=told):
        load_pipeline(home)


def test_an_agent_that_a_file_cannot_keep_is_refused(tmp_path: Path):
    relay = relay_of({"kind": "embedding"}, tmp_path)
    PairedAgent.of(relay.solver())
    with pytest.raises(TrainingError, match=r"cannot keep the agent 'receiver'"):
        PairedAgent.of(relay.solver(FreeVectors(count=1, width=32)))
    with pytest.raises(TrainingError, match=r"cannot keep the agent 'receiver'.*seed=\(1, 2\)"):
        PairedAgent.of(replace(relay.solver(), settings=Settings(seed=(1, 2))))


def test_a_sender_that_writes_by_diffusion_is_kept_whole(tmp_path: Path):
    settings = {"kind": "embedding", "layers": [2], "hidden": 16}
    planning = {"tokens": 8, "steps": 3, "block": None, "temperature": 0.5, "seed": 3}
    none = {"steps": 0, "lr": 1.0}
    relay = relay_of(settings, tmp_path, planning=planning, warmup=none)
    relay = replace(relay, sender=tiny_diffusion("llada"))
    projector, home = train_projector(relay, tmp_path)
    before = trained_pipeline(relay, projector)
    after = load_pipeline(home, sender=relay.sender, receiver=relay.receiver)
    assert after.agents["sender"].settings == before.agents["sender"].settings
    assert answers(after) == answers(before)


def test_what_is_read_is_what_was_written(tmp_path: Path):
    relay = relay_of({"kind": "embedding", "hidden": 16}, tmp_path)
    projector, home = train_projector(relay, tmp_path)
    pair = Pair.of(relay, trained_pipeline(relay, projector))
    assert Pair.read(home) == pair
    assert torch.equal(load_projector(home).state_dict()["mean"], projector.state_dict()["mean"])
