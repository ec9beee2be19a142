"""Recipes from file to report, on tiny models in folders and a task of a few lines."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import SafetensorError

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Embedding, TextChannel
from unspoken.errors import (
    DataError,
    IncompatibleModels,
    RecipeError,
    StorageError,
    TrainingError,
    UnknownName,
)
from unspoken.files import sha256
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import EmbeddingProjector, FreeVectors
from unspoken.recipe import (
    EdgesRecipe,
    PipelineRecipe,
    PlannerExecutorRecipe,
    PlannerRecipe,
    PlanRecipe,
    ProjectorRecipe,
    RateRecipe,
    RelayRecipe,
    ReuseRecipe,
    TelephoneRecipe,
    find_recipe,
    load_recipe,
    recipe_names,
)
from unspoken.recipe.loading import chain
from unspoken.recipe.pipeline import build
from unspoken.relay import train as training
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector
from unspoken.studies.comparison.measure import compare
from unspoken.studies.comparison.recipe import run_relay
from unspoken.studies.comparison.report import Report

ARM = {
    "channel",
    "condition",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "tokens_read",
    "tokens_written",
    "wire_bytes",
    "seconds",
}
CONDITIONS = {
    "full-text": ("none", "matched", "deranged"),
    "full-text, tuned reader": ("none", "matched", "deranged"),
    "text": ("none", "matched", "deranged"),
    "text, tuned reader": ("none", "matched", "deranged"),
    "embedding": ("none", "matched", "deranged", "constant"),
}


def items(split: str, count: int, *, groups: int = 0) -> list[dict[str, Any]]:
    """Short facts that share nothing with another split's; in groups, several to one fact's."""
    names = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ivy", "Jo", "Kit", "Lou")
    what = {"train": ("cat", "dog"), "test": ("owl", "yak")}[split]
    return [
        {
            "id": f"{split}-{n}",
            "context": f"{names[n % 12]} {split[:2]}{n} has a{'n' * (n % 2)} {what[n % 2]} {n}é.",
            "question": f"What has {names[n % 12]} {split[:2]}{n}?",
            "answers": [f"{what[n % 2]} {n}é"],
            **({"group": f"{split}-g{n % groups}"} if groups else {}),
        }
        for n in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]
) -> dict[str, Path]:
    """Two tiny models as model folders, and a third that is another fine-tune of the second."""
    home = tmp_path_factory.mktemp("models")
    made = {
        "sender": tiny("gemma", width=24),
        "receiver": tiny("llama"),
        "other": tiny("llama", seed=1),
    }
    for name, backbone in made.items():
        cast(Any, backbone.model).save_pretrained(home / name)
        backbone.tokenizer.save_pretrained(home / name)
    return {name: home / name for name in made}


@dataclass
class Bench:
    """A folder with models and a task, and a recipe that points at them."""

    home: Path
    models: dict[str, Path]

    def __post_init__(self) -> None:
        self.out = self.home / "out"
        self.train = write(self.home / "train.jsonl", items("train", 24))
        self.test = write(self.home / "test.jsonl", items("test", 9))

    def settings(self, *more: str) -> list[str]:
        return [
            f"sender.model={self.models['sender']}",
            f"receiver.model={self.models['receiver']}",
            f"task.train={self.train}",
            f"task.test={self.test}",
            "task.validation=6",
            "validation=4",
            "prompts.instruction=Answer.",
            "prompts.shots=1",
            "prompts.note_lead=''",
            "prompts.note_tokens=4",
            "prompts.answer_tokens=4",
            "projector.hidden=16",
            "projector.prompt=2",
            "warmup={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "training={steps: 4, batch_size: 4, warmup: 1, every: 2}",
            "reader.vectors=2",
            "constant.vectors=3",
            "limit=6",
            f"out={self.out}",
            *more,
        ]

    def recipe(self, *more: str) -> RelayRecipe:
        found = load_recipe("relay", self.settings(*more))
        assert isinstance(found, RelayRecipe)
        return found

    def relay(self, *more: str) -> Relay:
        return Relay.of(self.recipe(*more))

    def results(self) -> dict[str, Any]:
        return json.loads((self.out / "results.json").read_text(encoding="utf-8"))

    def predictions(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.out / "predictions").iterdir()}


@pytest.fixture
def bench(tmp_path: Path, folders: dict[str, Path]) -> Bench:
    return Bench(tmp_path, folders)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> tuple[Bench, Report]:
    """A whole comparison, made once; tests that change files copy it first."""
    bench = Bench(tmp_path_factory.mktemp("finished"), folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSPOKEN_CACHE", str(bench.home / "cache"))
        return bench, run_relay(bench.recipe())


@pytest.fixture
def copied(finished: tuple[Bench, Report], bench: Bench) -> Bench:
    """The finished comparison, in a folder of this test's own."""
    shutil.copytree(finished[0].out, bench.out)
    return bench


class Counter:
    """Counts what is computed: forward passes of any model, and arms that are answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.passes, self.arms, self.fits = 0, list[str](), list[str]()
        forward, many, fit = Backbone._forward, Pipeline.run_many, training.fit

        def counted(model: Any, *given: Any, **options: Any) -> Any:
            self.passes += 1
            return forward(model, *given, **options)

        def asked(line: Pipeline, *given: Any, **options: Any) -> Any:
            self.arms.append(options["progress"])
            return many(line, *given, **options)

        def fitted(*given: Any, **options: Any) -> Any:
            self.fits.append(options["title"])
            return fit(*given, **options)

        patch.setattr(Backbone, "_forward", counted)
        patch.setattr(Pipeline, "run_many", asked)
        patch.setattr(training, "fit", fitted)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def without_time(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what may differ from run to run: times, and the places of equal files."""
    task = results["task"]
    hashes = {name: origin["sha256"] for name, origin in task["files"].items()}
    return {**results, "notes": None, "task": {**task, "files": hashes}}


# A comparison ------------------------------------------------------------------------------------


def test_results_hold_what_the_issue_lists(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    found = bench.results()
    assert found == json.loads(json.dumps(report.to_dict()))
    listed = [(arm["channel"], arm["condition"]) for arm in found["arms"]]
    assert listed == [(name, c) for name, known in CONDITIONS.items() for c in known]
    for arm in found["arms"]:
        assert set(arm) >= ARM
        assert arm["n"] == 6
        assert 0 <= arm["ci_low"] <= arm["accuracy"] <= arm["ci_high"] <= 1
        assert arm["ci_low"] < arm["ci_high"]
        assert arm["tokens_read"] > 0
        assert 0 < arm["tokens_written"] <= 8
        assert arm["seconds"] > 0
        silent = arm["condition"] == "none"
        assert (arm["wire_bytes"] == 0) == silent or arm["channel"].startswith("text")
    assert set(found["channels"]) == set(CONDITIONS)
    for name, worth in found["channels"].items():
        for kind in ("gain", "content"):
            difference = worth[kind]
            assert -1 <= difference["low"] <= difference["value"] <= difference["high"] <= 1
            assert 0 <= difference["p"] <= 1
        assert (worth["over_constant"] is not None) == (name == "embedding")
        assert worth["verdict"]


def test_results_say_what_was_compared(finished: tuple[Bench, Report]) -> None:
    bench, _ = finished
    found = bench.results()
    sender, receiver = (
        Backbone.from_pretrained(str(bench.models[side])) for side in ("sender", "receiver")
    )
    named = {model["name"]: model["fingerprint"] for model in found["models"]}
    assert named == {
        str(bench.models["sender"]): sender.fingerprint,
        str(bench.models["receiver"]): receiver.fingerprint,
    }
    task = found["task"]
    assert (task["name"], task["split"], task["protocol"], task["items"]) == (
        "jsonl",
        "test",
        "private",
        6,
    )
    assert task["files"] == {
        "train": {"path": str(bench.train), "sha256": sha256(bench.train)},
        "test": {"path": str(bench.test), "sha256": sha256(bench.test)},
    }
    assert set(task["overlap"]) == {"questions", "facts", "dropped"}
    assert not any(task["overlap"]["facts"].values())
    assert found["seed"] == 0
    assert {"python", "unspoken", "torch", "transformers"} <= set(found["versions"])
    assert {"system", "cores", "threads", "gpu"} <= set(found["machine"])
    assert found["notes"]["training_seconds"] > 0


def test_the_report_can_be_read_and_seen(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    text = (bench.out / "report.md").read_text(encoding="utf-8")
    for arm in report.arms:
        assert f"| {arm.channel} | {arm.condition} | {100 * arm.accuracy:.1f} (" in text
    models = (str(bench.models["sender"]), str(bench.models["receiver"]))
    for line in (*report.findings(), "report.png", "seed 0", *models):
        assert line in text
    assert (bench.out / "report.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {path.name for path in bench.out.iterdir()} == {
        "predictions",
        "report.html",
        "report.md",
        "report.png",
        "results.json",
        "trained",
    }


def test_predictions_are_kept_per_item(finished: tuple[Bench, Report]) -> None:
    bench, report = finished
    asked: set[tuple[str, ...]] = set()
    for arm in report.arms:
        path = bench.out / "predictions" / f"{arm.channel}-{arm.condition}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        asked.add(tuple(row["id"] for row in rows))
        assert tuple(row["correct"] for row in rows) == arm.correct
        for row in rows:
            assert isinstance(row["prediction"], str)
            assert row["answers"]
            assert (row["message_of"] != row["id"]) == (arm.condition == "deranged")
            wrote = arm.channel.startswith("text") and arm.condition != "none"
            assert ("sender" in row["messages"]) == wrote
    assert len(asked) == 1  # every arm answers the same items
    assert len(asked.pop()) == 6


def test_arms_without_a_message_cost_the_receiver_alone(finished: tuple[Bench, Report]) -> None:
    _, report = finished
    none, matched = (report.arm("embedding", name) for name in ("none", "matched"))
    assert none.tokens_read < matched.tokens_read
    assert report.arm("full-text", "none").correct == none.correct
    tuned = [vars(report.arm(f"{name}, tuned reader", "none")) for name in ("text", "full-text")]
    assert {**tuned[0], "channel": ""} == {**tuned[1], "channel": ""}


def test_a_second_run_computes_nothing_and_finds_the_same(copied: Bench, counter: Counter) -> None:
    before, kept = copied.results(), copied.predictions()
    run_relay(copied.recipe())
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert without_time(copied.results()) == without_time(before)
    assert copied.predictions() == kept


def test_a_run_elsewhere_finds_the_same(
    finished: tuple[Bench, Report], bench: Bench, counter: Counter
) -> None:
    run_relay(bench.recipe())
    assert counter.passes > 0
    assert counter.fits == ["reader", "projector, words", "projector, answers", "constant"]
    for one, two in zip(finished[0].results()["arms"], bench.results()["arms"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    weights = [
        sorted((path.name, sha256(path)) for path in out.glob("trained/*/model.safetensors"))
        for out in (finished[0].out, bench.out)
    ]
    assert weights[0] == weights[1]


def test_other_items_are_answered_anew(copied: Bench, counter: Counter) -> None:
    run_relay(copied.recipe("limit=5"))
    assert not counter.fits
    assert len(counter.arms) == 13  # of 16 arms, as three `none` are another channel's too
    assert {arm["n"] for arm in copied.results()["arms"]} == {5}


def test_a_corrected_answer_is_scored_anew(copied: Bench) -> None:
    name = "full-text-matched.jsonl"
    first = json.loads(copied.predictions()[name].decode().split("\n")[0])
    rows = items("test", 9)
    for row in rows:
        if row["id"] == first["id"]:
            row["answers"] = [first["prediction"] or "x", "and more"]
    write(copied.test, rows)
    run_relay(copied.recipe("channels=[full-text]"))
    again = json.loads(copied.predictions()[name].decode().split("\n")[0])
    assert again["answers"][1] == "and more"
    assert again["prediction"] == first["prediction"]


def test_ctrl_c_leaves_finished_arms_and_a_rerun_completes(
    bench: Bench, finished: tuple[Bench, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0].out / "trained", bench.out / "trained")
    many, calls = Pipeline.run_many, list[str]()

    def third(line: Pipeline, *given: Any, **options: Any) -> Any:
        calls.append(options["progress"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return many(line, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run_many", third)
        with pytest.raises(KeyboardInterrupt):
            run_relay(bench.recipe())
    assert set(bench.predictions()) == {"full-text-none.jsonl", "full-text-matched.jsonl"}
    assert not (bench.out / "results.json").exists()
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        run_relay(bench.recipe())
    assert counter.arms[0] == "full-text, deranged"
    assert not set(calls[:2]) & set(counter.arms)
    for one, two in zip(finished[0].results()["arms"], bench.results()["arms"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def turned(line: bytes) -> bytes:
    row = json.loads(line)
    return json.dumps({**row, "correct": not row["correct"]}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-40],
        lambda content: content[: content.index(b"\n") + 1],
        lambda content: content.replace(b'"arm": "', b'"arm": "0'),
        lambda content: content.replace(b'"usage"', b'"used"', 1),
        lambda content: content.replace(b'"read"', b'"red"', 1),
        lambda content: b"\xff" + content,
        lambda content: b"[]\n" * 6,
        lambda content: content + content.split(b"\n")[0] + b"\n",
        lambda content: b"\n".join(reversed(content[:-1].split(b"\n"))) + b"\n",
        lambda content: turned(content.split(b"\n")[0]) + content[content.index(b"\n") :],
    ],
    ids=[
        "empty",
        "cut within a line",
        "cut after a line",
        "of other settings",
        "without costs",
        "with other costs",
        "no text",
        "no objects",
        "longer",
        "in another order",
        "scored otherwise",
    ],
)
def test_damaged_predictions_are_not_trusted(
    damage: Callable[[bytes], bytes], copied: Bench, counter: Counter
) -> None:
    before = copied.predictions()
    path = copied.out / "predictions" / "embedding-matched.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    assert path.read_bytes() != before[path.name]
    run_relay(copied.recipe())
    assert counter.arms == ["embedding, matched"]
    again = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    known = [json.loads(line) for line in before[path.name].split(b"\n")[:-1]]
    for one, two in zip(again, known, strict=True):
        for row in (one, two):
            for spent in (row["usage"], *row["costs"].values()):
                spent["seconds"] = spent["wait"] = 0
        assert one == two


def test_line_breaks_of_unicode_in_a_prediction_are_kept(
    bench: Bench, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_words = Backbone.write

    def odd(model: Backbone, *given: Any, **options: Any) -> Any:
        found = write_words(model, *given, **options)
        return type(found)(tuple("a\u2028b\x85c" for _ in found.words), found.tokens, found.passes)

    monkeypatch.setattr(Backbone, "write", odd)
    lines = {"pair": bench.relay().full_text()}
    task = bench.relay().task
    first = compare(lines, task, limit=6, out=bench.out)
    assert len(counter.arms) == 3
    assert compare(lines, task, limit=6, out=bench.out).arms == first.arms
    assert len(counter.arms) == 3


# Kinds of tasks and channels ---------------------------------------------------------------------


def test_a_handoff_is_compared_between_equal_models(bench: Bench, counter: Counter) -> None:
    report = run_relay(
        bench.recipe(f"sender.model={bench.models['receiver']}", "channels=[full-text, handoff]")
    )
    assert counter.fits == ["reader"]
    found = [(arm.channel, arm.condition) for arm in report.arms][-3:]
    assert found == [("handoff", name) for name in ("none", "matched", "deranged")]
    rows = [
        [json.loads(line)["prediction"] for line in content.split(b"\n")[:-1]]
        for name, content in sorted(bench.predictions().items())
        if name in ("full-text-matched.jsonl", "handoff-matched.jsonl")
    ]
    assert rows[0] == rows[1]  # the fact handed over reads like the fact as text
    assert report.arm("handoff", "matched").wire_bytes > 100 * len("a fact")
    assert [model["name"] for model in report.models] == [str(bench.models["receiver"])]


def test_a_handoff_alone_trains_nothing(bench: Bench, counter: Counter) -> None:
    run_relay(bench.recipe(f"sender.model={bench.models['receiver']}", "channels=[handoff]"))
    assert counter.fits == []
    assert not (bench.out / "trained").exists()


def test_a_handoff_between_other_models_is_refused_before_training(
    bench: Bench, counter: Counter
) -> None:
    with pytest.raises(IncompatibleModels, match="handoff needs the same weights"):
        run_relay(bench.recipe("channels=[full-text, embedding, handoff]"))
    assert (counter.passes, counter.fits) == (0, [])


def test_a_receiver_that_shares_the_fact_reads_more(bench: Bench, counter: Counter) -> None:
    channels = "channels=[embedding]"
    private = run_relay(bench.recipe(channels))
    trained = len(counter.fits)
    shared = run_relay(bench.recipe(channels, "task.protocol=shared"))
    assert len(counter.fits) == 2 * trained  # what was trained on other prompts is no use here
    assert shared.task["protocol"] == "shared"
    for name in ("none", "matched", "deranged"):
        more = (
            shared.arm("embedding", name).tokens_read - private.arm("embedding", name).tokens_read
        )
        assert more > len(items("test", 1)[0]["context"]) - 5


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
            (f"receiver.model={bench.models['other']}",),
            ("receiver.dtype=bfloat16",),
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


def test_items_in_groups_stay_together(bench: Bench) -> None:
    write(bench.train, items("train", 24, groups=6))
    relay = bench.relay("task.validation=8", "channels=[full-text]")
    groups = [{item.group for item in split} for split in (relay.task.train, relay.task.validation)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]
    report = run_relay(bench.recipe("task.validation=8", "channels=[full-text]"))
    assert report.task["items"] == 6


def test_worked_examples_are_not_trained_on(bench: Bench) -> None:
    relay = bench.relay("prompts.shots=3")
    assert len(relay.shots) == 3
    assert not {item.id for item in relay.shots} & {item.id for item in relay.train}
    assert all(item.context in relay.lead for item in relay.shots)
    assert len(relay.train) == len(relay.task.train) - 3


def test_every_condition_hears_the_same_lead(bench: Bench) -> None:
    relay = bench.relay()
    lines = [relay.full_text(), relay.text()]
    assert {line.answerer.role.lead for line in lines} == {relay.lead}


# What was trained --------------------------------------------------------------------------------


def trained(bench: Bench) -> Path:
    (home,) = (bench.out / "trained").glob("projector-*")
    return home


def test_a_trained_projector_loads_and_its_card_says_how(finished: tuple[Bench, Report]) -> None:
    bench, _ = finished
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


def test_free_vectors_load_and_know_their_receiver(finished: tuple[Bench, Report]) -> None:
    bench, _ = finished
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
    finished: tuple[Bench, Report],
    tiny: Callable[..., Backbone],
) -> None:
    bench, _ = finished
    sender, receiver = tiny("gemma", width=24), tiny(kind, **options)
    agents = [
        Agent("a", sender, role=Role(template="{context}", chat=False)),
        Agent("b", receiver),
    ]
    channel = Embedding(str(trained(bench)))
    with pytest.raises(IncompatibleModels, match=said) as refused:
        Pipeline(agents, [Edge("a", "b", channel)])
    remedy = "train one with: unspoken train recipes/relay_projector.yaml"
    assert f"{remedy} sender.model={sender.name} receiver.model={receiver.name}" in str(
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
    bench: Bench, finished: tuple[Bench, Report], monkeypatch: pytest.MonkeyPatch
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
        trained(finished[0]) / "model.safetensors"
    )


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


def test_a_full_disk_while_a_report_is_saved_keeps_the_one_before(
    copied: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.read_bytes() for p in copied.out.rglob("*") if p.is_file()}

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=r"nothing was changed there\. Free some room"):
        run_relay(copied.recipe("limit=5"))
    assert {p: p.read_bytes() for p in copied.out.rglob("*") if p.is_file()} == before


def test_too_little_data_is_refused_before_any_pass(bench: Bench, counter: Counter) -> None:
    write(bench.train, items("train", 1))
    with pytest.raises(DataError, match="of 1 training items"):
        run_relay(bench.recipe())
    write(bench.train, items("train", 24))
    write(bench.test, items("test", 1))
    with pytest.raises(DataError):
        run_relay(bench.recipe("channels=[full-text]", "training.steps=1"))
    with pytest.raises(UnknownName, match="no model at"):
        run_relay(bench.recipe(f"sender.model={bench.home}/"))


# What a recipe may say ---------------------------------------------------------------------------


def test_every_shipped_recipe_is_valid() -> None:
    kinds = {name: type(load_recipe(name)) for name in recipe_names()}
    assert kinds == {
        "edges": EdgesRecipe,
        "free": RelayRecipe,
        "fusion": RelayRecipe,
        "fusion_projector": ProjectorRecipe,
        "graph": EdgesRecipe,
        "memory": RelayRecipe,
        "memory_projector": ProjectorRecipe,
        "mixing": ProjectorRecipe,
        "plan": PlanRecipe,
        "planner": PlannerRecipe,
        "planner_executor": PlannerExecutorRecipe,
        "planner_solver": PipelineRecipe,
        "rate": RateRecipe,
        "relay": RelayRecipe,
        "relay_projector": ProjectorRecipe,
        "reuse": ReuseRecipe,
        "ridge": ProjectorRecipe,
        "telephone": TelephoneRecipe,
    }
    for name in recipe_names():
        head = find_recipe(name).read_text(encoding="utf-8")
        assert head.startswith("# ")
        assert f"recipes/{name}.yaml" in head  # the exact command


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainig.steps=3", "trainig: "),
        ("training.step=3", "training.step: "),
        ("training.steps=soon", "training.steps: .*integer"),
        ("training.steps=-1", "training.steps: .*greater than or equal to 0"),
        ("training.lr=0", "training.lr: .*greater than 0"),
        ("limit=1", "limit: .*greater than or equal to 2"),
        ("channels=[text, fax]", r"channels\.1\.name: .*unknown channel 'fax'.*handoff.*\. See"),
        ("channels=[text, embeding]", r"channels\.1\.name: .*did you mean 'embedding'\?"),
        ("projector.kind=memori", r"projector: .*'memori'; did you mean 'memory'\?"),
        ("projector.hiden=3", r"projector\.hiden: Extra inputs are not permitted"),
        ("channels=[{name: own}]", r"channels\.0\.settings: .*give either a channel"),
        ("task.protocol=secret", "task.protocol: .*'private', 'shared' or 'closed'"),
        ("seed.x=3", "seed: .*integer"),
        ("sender=gemma-3-270m", "sender: "),
        ("kind=relais", "kind: .*'relay'"),
        ("out", "out: "),
        ("novelty", "novelty: "),
        ("a={b", "cannot be read with"),
        ("out=${nope}", "cannot be read with .*nope"),
    ],
)
def test_a_wrong_setting_is_named(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as refused:
        load_recipe("relay", [override])
    assert "\n" not in str(refused.value)
    assert "relay.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: [1", "cannot be read"),
        ("- 1\n- 2\n", "a mapping of settings"),
        ("base: none.yaml\nkind: relay\n", "none.yaml"),
        ("base: own.yaml\nkind: relay\n", "recursion"),
        ("just words", "kind: "),
        ("", "kind: "),
        ("seed: 1\n", "kind: "),
        ("kind: pipeline\n", "agents: Field required"),
        ("kind: pipeline\nagents: [{name: a}]\n", "agents.0.model: Field required"),
        (
            "kind: pipeline\nagents: []\nedges: [{from: a, channel: {}}]\n",
            "edges.0.to: Field required",
        ),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=said) as refused:
        load_recipe(str(path))
    assert "own.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_overrides_reach_into_lists() -> None:
    recipe = load_recipe("planner_solver", ["edges.0.channel={kind: handoff}", "agents.1.model=m"])
    assert isinstance(recipe, PipelineRecipe)
    assert recipe.edges[0].channel == {"kind": "handoff"}
    assert [agent.model for agent in recipe.agents] == ["smollm2-135m-instruct", "m"]
    with pytest.raises(RecipeError, match="agents"):
        load_recipe("planner_solver", ["agents.7.model=m"])


def test_a_recipe_continues_those_beside_it(tmp_path: Path) -> None:
    for name in ("relay", "relay_projector"):
        shutil.copy(find_recipe(name), tmp_path)
    (tmp_path / "mine.yaml").write_text("base: relay.yaml\nseed: 7\ntraining: {steps: 5}\n")
    mine, relay = load_recipe(str(tmp_path / "mine.yaml"), ["limit=null"]), load_recipe("relay")
    assert isinstance(mine, RelayRecipe)
    assert isinstance(relay, RelayRecipe)
    changed = {"seed": 7, "training": relay.training.model_copy(update={"steps": 5}), "limit": None}
    assert mine == relay.model_copy(update=changed)
    assert [path.name for path in chain(str(tmp_path / "mine.yaml"))] == [
        "mine.yaml",
        "relay.yaml",
        "relay_projector.yaml",
    ]


def test_a_recipe_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    for name in ("relay", "relay.yaml", "recipes/relay.yaml"):
        assert find_recipe(name).name == "relay.yaml"
    with pytest.raises(UnknownName, match="did you mean 'relay'"):
        find_recipe("relya")


# Pipelines by recipe -----------------------------------------------------------------------------

PIPELINE = """
kind: pipeline
rounds: 2
agents:
  - {{name: one, model: "{model}", max_tokens: 3}}
  - {{name: two, model: "{model}", max_tokens: 5, stop: [zz], template: "{{messages}}{{question}}"}}
edges:
  - {{from: one, to: two, channel: {channel}}}
"""


def pipeline(folder: Path, model: Path, channel: str) -> PipelineRecipe:
    path = folder / "own.yaml"
    path.write_text(PIPELINE.format(model=model, channel=channel))
    found = load_recipe(str(path))
    assert isinstance(found, PipelineRecipe)
    return found


def test_a_pipeline_is_built_as_its_recipe_says(tmp_path: Path, folders: dict[str, Path]) -> None:
    line = build(pipeline(tmp_path, folders["receiver"], "{kind: text, limit: 2}"))
    assert line.agents["one"].backbone is line.agents["two"].backbone  # loaded once
    assert line.rounds == 2
    assert line.agents["two"].settings.stop == ("zz",)
    channel = line.edges[0].channel
    assert isinstance(channel, TextChannel)
    assert channel.limit == 2
    turns = [(turn.agent, turn.round) for turn in line.run("why?").turns]
    assert turns == [("one", 1), ("one", 2), ("two", 2)]  # nobody hears what two says at first


@pytest.mark.parametrize(
    ("channel", "error", "said"),
    [
        ("{limit: 2}", RecipeError, "has no kind; add for example kind: text"),
        ("{kind: txt}", UnknownName, "did you mean 'text'"),
        ("{kind: text, limit: 0}", RecipeError, "'text' cannot be made with .*at least 1 token"),
        ("{kind: text, colour: red}", RecipeError, "'text' cannot be made with .*colour"),
        ("{kind: embedding, projector: /none/at/all}", RecipeError, "/none/at/all"),
    ],
)
def test_a_channel_that_cannot_be_made_is_refused(
    channel: str, error: type[Exception], said: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(error, match=said):
        build(pipeline(tmp_path, folders["receiver"], channel))


def test_models_are_loaded_as_the_recipe_asks(bench: Bench) -> None:
    relay = bench.relay("receiver.dtype=bfloat16")
    assert (relay.sender.dtype, relay.receiver.dtype) == (torch.float32, torch.bfloat16)
    assert bench.relay(f"sender.model={bench.models['receiver']}").sender.fingerprint
    same = bench.relay(f"sender.model={bench.models['receiver']}")
    assert same.sender is same.receiver


@pytest.mark.dist
def test_a_pipeline_runs_elsewhere_by_one_setting(tmp_path: Path, folders: dict[str, Path]) -> None:
    recipe = pipeline(tmp_path, folders["receiver"], "{kind: handoff}")
    here = build(recipe).run("why?")
    with build(recipe.model_copy(update={"executor": "memory", "timeout": 60})) as line:
        run = line.run("why?")
    assert [(t.agent, t.text, t.usage.wire) for t in run.turns] == [
        (t.agent, t.text, t.usage.wire) for t in here.turns
    ]
