"""Channels that need no training, joined in a comparison by name and settings, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.bench import run_study
from unspoken.backbone import Backbone
from unspoken.channels import Embedding, SelectiveLayers, SoftWords, make_channel
from unspoken.errors import IncompatibleModels, RecipeError
from unspoken.projectors import LinearMap, MemoryProjector, VocabularyMixing
from unspoken.projectors.alignment import align, shared_vocabulary
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.relay.calibration import aligned_states, calibration_texts
from unspoken.relay.relay import Relay
from unspoken.relay.train import train_projector

CHANNELS = """[
    {name: own text, sender: receiver, channel: {kind: text, limit: 4}},
    {name: handed, sender: receiver, channel: {kind: handoff}},
    {name: rolled, sender: receiver, channel: {kind: rollout, steps: 2}},
    {name: half, sender: receiver, channel: {kind: layers, ratio: 0.5}},
    {name: soft, sender: receiver, channel: {kind: soft, limit: 4}},
    {name: map, projector: {kind: ridge, layers: [2], texts: 8, calibration: both}},
    {name: turn, projector: {kind: procrustes, layers: [2], texts: 8, calibration: text}},
    {name: mixed, projector: {kind: mixing}},
    {name: cache, projector: {kind: memory, width: 9, hidden: 8, texts: 8, calibration: random}}]"""
NAMES = ["own text", "handed", "rolled", "half", "soft", "map", "turn", "mixed", "cache"]


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
    """Two tiny models and a task, as a recipe's overrides."""
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
        f"out={tmp_path / 'out'}",
    ]


def free(settings: list[str], *more: str) -> RelayRecipe:
    recipe = load_recipe(
        "free",
        [*settings, f"comparison.channels={CHANNELS}", "comparison.limit=4", "studies={}", *more],
    )
    assert isinstance(recipe, RelayRecipe)
    return recipe


@pytest.mark.parametrize("protocol", ["private", "shared"])
def test_every_channel_is_compared_with_the_default_controls(settings: list[str], protocol: str):
    recipe = free(settings, f"task.protocol={protocol}")
    report = run_study("comparison", recipe)
    assert report.channels == NAMES
    for name in NAMES:
        conditions = [arm.condition for arm in report.arms if arm.channel == name]
        assert conditions == ["none", "matched", "deranged"]
        assert report.arm(name, "matched").wire_bytes > 0
    half, handed = (report.arm(name, "matched").wire_bytes for name in ("half", "handed"))
    assert half < handed < report.arm("rolled", "matched").wire_bytes
    assert report.arm("rolled", "matched").passes >= report.arm("handed", "matched").passes + 3
    again = run_study("comparison", recipe)
    assert [arm.correct for arm in again.arms] == [arm.correct for arm in report.arms]


def test_what_a_sender_reads_follows_from_the_channel(settings: list[str]):
    relay = Relay.of(free(settings))

    def template(channel: Any) -> str:
        pair = relay.pipeline_over(channel)
        return pair.agents[pair.edges[0].sender].role.template

    assert template(make_channel("text", verbatim=True)) == " {context}"
    assert template(make_channel("text", limit=3)) == "Fact: {context}\nNote:"
    relay = relay.same_model
    assert template(SelectiveLayers()) == "Fact: {context}"
    assert template(SoftWords()) == "Fact: {context}\nNote:"
    assert template(make_channel("rollout")) == "Fact: {context}"


def test_all_layers_are_the_whole_hand_over(settings: list[str]):
    channels = """comparison.channels=[
        {name: handed, sender: receiver, channel: {kind: handoff}},
        {name: all, sender: receiver, channel: {kind: layers, ratio: 1.0}}]"""
    report = run_study("comparison", free(settings, channels, "comparison.limit=6"))
    told = Path(settings[-1].removeprefix("out=")) / "predictions"
    said = [
        [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        for path in (told / "handed-matched.jsonl", told / "all-matched.jsonl")
    ]
    assert said[0] == said[1]
    sizes = [report.arm(name, "matched").wire_bytes for name in ("handed", "all")]
    assert sizes[1] < sizes[0] / 2  # the lead stays with the sender


def test_layers_are_chosen_by_the_receivers_attention(settings: list[str]):
    relay = Relay.of(free(settings))
    channel = SelectiveLayers().calibrated(relay.receiver, relay.samples(3))
    shares = [relay.receiver.regard(said, asked) for said, asked in relay.samples(3)]
    expected = torch.stack(shares).mean(0).tolist()
    assert channel.attention == pytest.approx(expected, abs=1e-5)
    assert make_channel("rollout").calibrated(relay.receiver, relay.samples(3)).name == "rollout"


def test_equal_weights_are_asked_for_before_anything_is_fitted(settings: list[str]):
    channels = (
        "comparison.channels=[{name: map, projector: {kind: ridge}}, "
        "{name: h, channel: {kind: handoff}}]"
    )
    recipe = free(settings, channels)
    with pytest.raises(IncompatibleModels, match="handoff needs the same weights"):
        run_study("comparison", recipe)
    assert not recipe.out.exists()


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ("[{name: x}]", "give either a channel"),
        ("[{name: x, channel: {kind: handoff}, projector: {kind: ridge}}]", "give either"),
        ("[{name: x, channel: {kind: soft}}, {name: x, channel: {kind: text}}]", "appear twice"),
        ("[{name: x, projector: {kind: embedding}}]", "embedding"),
    ],
)
def test_a_source_that_says_too_much_or_too_little_is_refused(
    settings: list[str], channels: str, told: str
):
    with pytest.raises(RecipeError, match=told):
        free(settings, f"comparison.channels={channels}")


def test_an_unknown_kind_of_channel_is_met_with_a_suggestion(settings: list[str]):
    with pytest.raises(LookupError, match="did you mean 'rollout'"):
        run_study(
            "comparison", free(settings, "comparison.channels=[{name: x, channel: {kind: rolout}}]")
        )


# -- fitting ---------------------------------------------------------------------------------------


def fit(name: str, settings: list[str], *more: str) -> tuple[Relay, Any, Path]:
    recipe = load_recipe(name, [*settings, *more])
    assert isinstance(recipe, RelayRecipe)
    relay = Relay.of(recipe)
    return relay, *train_projector(relay, recipe.out)


@pytest.mark.parametrize("kind", ["ridge", "procrustes"])
def test_a_recipe_fits_and_saves_a_map_that_a_channel_loads(settings: list[str], kind: str):
    more = f"projector={{kind: {kind}, layers: [2], texts: 20}}"
    relay, made, home = fit("ridge", settings, more)
    assert isinstance(made, LinearMap)
    assert made.source_weights == relay.sender.fingerprint
    assert "both models frozen" in (home / "README.md").read_text()
    channel = make_channel("embedding", projector=str(home))
    assert isinstance(channel, Embedding)
    assert isinstance(channel.projector, LinearMap)
    assert torch.equal(channel.projector.linear.weight, made.linear.weight)
    again, _ = train_projector(relay, home.parent)
    assert torch.equal(cast(LinearMap, again).linear.weight, made.linear.weight)


def test_a_recipe_keeps_the_words_that_both_know(settings: list[str]):
    relay, made, home = fit("mixing", settings)
    assert isinstance(made, VocabularyMixing)
    ours, theirs = shared_vocabulary(relay.sender, relay.receiver)
    assert torch.equal(made.head, relay.sender.head[ours])
    assert torch.equal(made.table, relay.receiver.table[theirs])
    channel = make_channel("soft", projector=str(home), limit=3)
    query = {"context": "somebody likes tea", "question": "What does somebody like?"}
    assert relay.pipeline_over(channel).run(query).usage.wire > 0
    with pytest.raises(RecipeError, match=r"nothing to train; set training\.steps=0"):
        load_recipe("mixing", [*settings, "training.steps=3"])


def test_a_cache_is_fitted_to_random_words(settings: list[str]):
    """As long as nothing is trained, `calibration` alone makes the difference."""
    made = {
        kind: fit(
            "memory_projector",
            settings,
            "training.steps=0",
            "projector.width=48",
            "projector.hidden=8",
            f"projector.calibration={kind}",
            f"out={settings[-1].removeprefix('out=')}-{kind}",
        )[1]
        for kind in ("text", "random")
    }
    assert all(type(one) is MemoryProjector for one in made.values())
    assert not torch.equal(made["text"].outer.weight, made["random"].outer.weight)


@pytest.mark.parametrize(("kind", "facts"), [("text", 8), ("random", 0), ("both", 4)])
def test_what_a_map_is_fitted_on(settings: list[str], kind: Any, facts: int):
    relay = Relay.of(free(settings))
    texts = calibration_texts(relay, relay.train, kind, 8)
    assert len(texts) == 8
    assert texts[:facts] == [item.context for item in relay.train[:facts]]
    assert all(" likes " not in text and text.isprintable() for text in texts[facts:])
    assert texts == calibration_texts(relay, relay.train, kind, 8)


@torch.no_grad()
def test_states_stand_beside_the_embedding_of_the_word_that_ends_there(settings: list[str]):
    relay = Relay.of(free(settings))
    texts = ["one é two", "three"]
    states, targets = aligned_states(relay, relay.reader(), [0, 2], texts)
    place, word = align(" one é two", relay.sender, relay.receiver)
    embedded = relay.receiver.table
    assert len(states) == len(targets)
    assert torch.equal(targets[: len(" three")], embedded[relay.receiver.tokens(" three")])
    assert torch.equal(states[:3, 0], relay.sender.embed(torch.tensor(relay.sender.tokens(" th"))))
    rest = targets[len(" three") :]
    assert len(rest) == len(place.unique())
    assert torch.equal(rest[0], embedded[word[0]])


@torch.no_grad()
def test_texts_of_one_length_are_read_in_the_order_given(settings: list[str]):
    """A set of strings has another order in each process, and so would the fit."""
    relay = Relay.of(free(settings))
    texts = ["eight", "seven", "three", "forty", "fifty", "sixty", "ninth", "first"]
    together = aligned_states(relay, relay.reader(), [0], texts)[1]
    apart = [aligned_states(relay, relay.reader(), [0], [text])[1] for text in texts]
    assert torch.equal(together, torch.cat(apart))
