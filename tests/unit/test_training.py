"""The loop, killed and resumed; what a projector is trained for; states that are kept on disk."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unspoken import kept
from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Constant, Embedding
from unspoken.errors import Damaged, TrainingError
from unspoken.pipeline import fields_of
from unspoken.projectors import EmbeddingProjector, FreeVectors
from unspoken.projectors.alignment import align, shared_vocabulary
from unspoken.training import (
    Answers,
    History,
    Reconstruction,
    StoredStates,
    TrainingPlan,
    fit,
    stored_states,
)
from unspoken.training.precision import in_bfloat16
from unspoken.types import Need, Vectors

pytestmark = pytest.mark.numbers

PLAN = TrainingPlan(steps=24, batch_size=4, lr=0.05, warmup=3, every=5, bf16=False)


class Net(nn.Module):
    """Three numbers to one, with a buffer that training must keep."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 1)

    def forward(self, values: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(values * self.scale)))[:, 0]


class Sum:
    """Toy rows: the sum of three numbers; the last eight validate. Calls `before` at each step."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[int], None] = lambda step: None,
        values: Sequence[float] = (),
    ) -> None:
        self.net, self.before, self.values = net, before, iter(values)
        self.rows: list[list[int]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
        self.size = 24

    def length(self, row: int) -> int:
        return row % 5

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        self.before(step)
        self.rows.append(list(rows))
        noise = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(step))
        x = self.x[list(rows)]
        return (self.net(x + 0.01 * noise) - x.sum(1)).square().mean()

    def validate(self) -> float:
        assert not self.net.training
        assert not torch.is_grad_enabled()
        self.weights.append({k: v.clone() for k, v in self.net.state_dict().items()})
        x = self.x[24:]
        found = float((self.net(x) - x.sum(1)).square().mean())
        return next(self.values, found)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# The loop ----------------------------------------------------------------------------------------


def test_training_lowers_a_loss_and_tells_its_history(tmp_path: Path) -> None:
    module = net()
    objective = Sum(module)
    history = fit(module, objective, replace(PLAN, steps=60), tmp_path / "c.pt", title="toy")
    assert [step for step, _ in history.train] == list(range(1, 61))
    assert [step for step, _ in history.validation] == list(range(5, 61, 5))
    losses = [loss for _, loss in history.train]
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])
    assert history.best == min(value for _, value in history.validation) < 0.5
    assert float(module.scale) == 2.0


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_the_rate_warms_up_and_falls_to_zero_along_a_cosine(warmup: int) -> None:
    plan = TrainingPlan(steps=110, lr=0.3, warmup=warmup)
    rates = [plan.rate(step) for step in range(plan.steps + 1)]
    assert rates[:warmup] == pytest.approx([0.3 * (n + 1) / warmup for n in range(warmup)])
    assert max(rates) == pytest.approx(0.3) == pytest.approx(rates[warmup])
    assert rates[warmup + (110 - warmup) // 2] == pytest.approx(0.15, abs=0.003)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(rate > 0 for rate in rates[:-1])


def test_a_warm_up_longer_than_the_training_is_no_error(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=2, warmup=9)
    module = net()
    assert len(fit(module, Sum(module), plan, tmp_path / "c.pt", title="toy").train) == 2


def test_every_row_is_seen_once_before_any_is_seen_again(tmp_path: Path) -> None:
    module = net()
    fit(module, objective := Sum(module), replace(PLAN, steps=12), tmp_path / "c.pt", title="toy")
    for epoch in (objective.rows[:6], objective.rows[6:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(24))
        spread = [max(row % 5 for row in b) - min(row % 5 for row in b) for b in epoch]
        assert sum(spread) / len(spread) < 2  # rows of like length share a batch
    assert objective.rows[:6] != objective.rows[6:]


def test_the_best_validation_weights_are_restored(tmp_path: Path) -> None:
    module = net()
    values = [3.0, 1.0, 2.0, 1.0, 4.0]
    objective = Sum(module, values=values)
    history = fit(module, objective, PLAN, tmp_path / "c.pt", title="toy")
    assert [value for _, value in history.validation] == values
    assert history.best == 1.0
    assert same(module.state_dict(), objective.weights[1])  # the first of two equal ones
    assert not same(objective.weights[1], objective.weights[3])


def test_the_norm_of_gradients_is_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, norms = net(), list[float]()
    step = torch.optim.AdamW.step

    def keep(optimizer: Any, *given: Any) -> Any:
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
        return step(optimizer, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    fit(module, Sum(module), replace(PLAN, clip=0.01), tmp_path / "c.pt", title="toy")
    assert norms == pytest.approx([0.01] * PLAN.steps, rel=1e-3)


# Killed and resumed ------------------------------------------------------------------------------


def killed_at(*steps: int) -> Callable[[int], None]:
    left = list(steps)

    def check(step: int) -> None:
        if left and step == left[0]:
            left.pop(0)
            raise KeyboardInterrupt

    return check


@pytest.mark.parametrize("steps", [(0,), (3,), (5,), (7,), (23,), (4, 5, 11, 13, 22)])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    steps: tuple[int, ...], bf16: bool, tmp_path: Path
) -> None:
    plan = replace(PLAN, bf16=bf16, weight_decay=0.1)
    whole = net()
    expected = fit(whole, Sum(whole), plan, tmp_path / "whole.pt", title="toy")

    kill = killed_at(*steps)
    for _ in steps:
        module = net()
        with pytest.raises(KeyboardInterrupt):
            fit(module, Sum(module, kill), plan, tmp_path / "c.pt", title="toy")
        torch.rand(7)  # the process that goes on has another random state
    module = net()
    objective = Sum(module, kill)
    found = fit(module, objective, plan, tmp_path / "c.pt", title="toy")
    assert same(module.state_dict(), whole.state_dict())
    assert found == expected
    last = steps[-1] // plan.every * plan.every
    assert len(objective.rows) == plan.steps - last  # nothing before the checkpoint is done again


@pytest.mark.parametrize("moment", ["validation", "write", "replace"])
def test_a_kill_while_a_checkpoint_is_made_leaves_the_one_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = net()
    expected = fit(whole, Sum(whole), PLAN, tmp_path / "whole.pt", title="toy")
    module = net()
    objective = Sum(module)
    calls: list[int] = []

    def second(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(*arguments)

        return call

    with monkeypatch.context() as patch:
        match moment:
            case "validation":
                patch.setattr(objective, "validate", second(objective.validate))
            case "write":
                patch.setattr(os, "fsync", second(os.fsync))
            case _:
                patch.setattr(os, "replace", second(os.replace))
        with pytest.raises(KeyboardInterrupt):
            fit(module, objective, PLAN, tmp_path / "c.pt", title="toy")
    assert {path.name for path in tmp_path.iterdir()} == {"c.pt", "whole.pt"}
    module = net()
    objective = Sum(module)
    assert fit(module, objective, PLAN, tmp_path / "c.pt", title="toy") == expected
    assert len(objective.rows) == PLAN.steps - PLAN.every
    assert same(module.state_dict(), whole.state_dict())


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    module = net()
    expected = fit(module, Sum(module), PLAN, tmp_path / "c.pt", title="toy")
    again = net()
    objective = Sum(again)
    assert fit(again, objective, PLAN, tmp_path / "c.pt", title="toy") == expected
    assert not objective.rows
    assert same(again.state_dict(), module.state_dict())


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    module = net()
    fit(module, Sum(module), PLAN, tmp_path / "c.pt", title="toy")
    with pytest.raises(
        TrainingError, match=r"c\.pt was written under another plan\. Remove it"
    ) as e:
        fit(module, Sum(module), replace(PLAN, lr=0.06), tmp_path / "c.pt", title="toy")
    assert "'lr': 0.05" in str(e.value)


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "flipped", "zeroed", "foreign", "older", "other"]
)
def test_a_damaged_checkpoint_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    module, path = net(), tmp_path / "c.pt"
    fit(module, Sum(module), PLAN, path, title="toy")
    data = path.read_bytes()
    changed = {
        "empty": b"",
        "cut": data[:-9],
        "flipped": data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
        "zeroed": data[:-64] + bytes(64),
        "foreign": b"no checkpoint at all",
    }
    if damage == "older":
        torch.save({"plan": {}}, path)
    elif damage == "moved":
        path = path.rename(tmp_path / "moved.pt")
    elif damage == "other":
        path = tmp_path / "other.pt"
        other = nn.Linear(3, 1)
        fit(other, Sum(other), PLAN, path, title="toy")
    else:
        path.write_bytes(changed[damage])
    before = net()
    with pytest.raises(Damaged, match=rf"{path.name} .*; remove it to train anew"):
        fit(before, Sum(before), PLAN, path, title="toy")
    assert same(before.state_dict(), net().state_dict())


# What training refuses ---------------------------------------------------------------------------


def test_a_parameter_without_gradient_is_named(tmp_path: Path) -> None:
    module = net()
    module.spare = nn.Parameter(torch.ones(2))
    with pytest.raises(TrainingError, match=r"toy: these parameters did not move: spare$"):
        fit(module, Sum(module), replace(PLAN, weight_decay=0.1), tmp_path / "c.pt", title="toy")


def test_a_frozen_parameter_stays_and_is_no_error(tmp_path: Path) -> None:
    module = net()
    module.inner.requires_grad_(False)
    before = module.inner.weight.clone()
    fit(module, Sum(module), PLAN, tmp_path / "c.pt", title="toy")
    assert torch.equal(before, module.inner.weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_training_before_a_weight_is_spoiled(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = net()
    objective = Sum(module)
    honest = objective.loss

    def loss(rows: Sequence[int], step: int) -> Tensor:
        return honest(rows, step) * (bad if step == 7 else 1)

    monkeypatch.setattr(objective, "loss", loss)
    with pytest.raises(
        TrainingError, match=r"toy: the loss of step 7 is (nan|inf)\. Lower lr=0\.05"
    ):
        fit(module, objective, PLAN, tmp_path / "c.pt", title="toy")
    assert all(bool(p.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize(("size", "steps"), [(0, 3), (3, 0)])
def test_nothing_to_train_on_is_refused(size: int, steps: int, tmp_path: Path) -> None:
    module = net()
    objective = Sum(module)
    objective.size = size
    with pytest.raises(TrainingError, match=f"{size} rows and {steps} steps"):
        fit(module, objective, replace(PLAN, steps=steps), tmp_path / "c.pt", title="toy")


def test_stages_of_both_precisions_follow_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    seen: list[torch.dtype] = []
    for bf16 in (True, False, True):
        module = net()
        objective = Sum(module)
        module.outer.register_forward_hook(lambda m, given, out: seen.append(out.dtype))
        plan = replace(PLAN, steps=2, every=9, bf16=bf16)
        fit(module, objective, plan, tmp_path / f"{len(seen)}.pt", title="toy")
        assert module.outer.weight.dtype == torch.float32
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * 3 + [torch.bfloat16] * 3


def test_a_history_without_validation_has_no_best() -> None:
    assert History().best == math.inf


# Objectives --------------------------------------------------------------------------------------

ITEMS = [
    {"context": f"The {what} of Ada stands in {where}.", "question": f"Where is the {what}?"}
    for what in ("house", "car", "old boat")
    for where in ("Rome", "Oslo", "a wood", "Århus 東")
]
ANSWERS = [f" {where}\n" for _ in range(3) for where in ("Rome", "Oslo", "a wood", "Århus 東")]
READS = Role(template=" {context}", chat=False)
SOLVES = Role(
    instructions="Say where.\n\n",
    template="Fact:{messages}\nQ: {question}\nA:",
    message="{message}",
    chat=False,
)


def make_projector(
    sender: Backbone, receiver: Backbone, *, layers: Sequence[int] = (0, 2), **options: Any
) -> EmbeddingProjector:
    torch.manual_seed(0)
    return EmbeddingProjector(
        source_width=sender.spec.width,
        target_width=receiver.spec.width,
        layers=layers,
        hidden=48,
        scale=float(receiver.table.square().mean().sqrt()),
        **options,
    )


@pytest.fixture
def sender(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("gemma", width=24)


@pytest.fixture
def receiver(tiny: Callable[..., Backbone]) -> Backbone:
    return tiny("llama")


def answers(
    sender: Backbone, receiver: Backbone, channel: Any, folder: Path, validation: int = 2
) -> Answers:
    layers = channel.projector.layers if isinstance(channel, Embedding) else (0,)
    told = StoredStates(Agent("s", sender, role=READS), ITEMS, layers, folder / "states")
    solver = Agent("r", receiver, role=SOLVES)
    return Answers(solver, channel, told, ITEMS, ANSWERS, validation=validation)


def test_the_loss_of_answers_is_what_the_receiver_would_say(
    sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    projector = make_projector(sender, receiver, prompt=2)
    objective = answers(sender, receiver, Embedding(projector), tmp_path)
    rows = [1, 6, 8]
    by_hand: list[Tensor] = []
    for row in rows:  # one at a time and in one pass each, from the ids up
        said = torch.tensor([[1, *sender.tokens(" " + ITEMS[row]["context"])]])  # 1 is <bos>
        hidden = sender.model(input_ids=said, output_hidden_states=True).hidden_states
        states = torch.stack([hidden[0], hidden[2]], 2)[:, 1:].bfloat16()
        message = projector(Vectors(states, torch.ones(states.shape[:2], dtype=torch.bool)))
        before, after = "Say where.\n\nFact:", f"\nQ: {ITEMS[row]['question']}\nA:"
        answer = receiver.tokens(ANSWERS[row])
        parts = (
            receiver.embed(torch.tensor([receiver.tokens(before)])),
            projector.front_vectors(1).values,
            message.values,
            receiver.embed(torch.tensor([receiver.tokens(after) + answer])),
        )
        logits = receiver.model(inputs_embeds=torch.cat(parts, 1)).logits[0]
        surprise = -logits.log_softmax(1)[-len(answer) - 1 : -1]
        by_hand.append(surprise[range(len(answer)), answer].sum())
    expected = torch.stack(by_hand).mean()
    assert objective.loss(rows, 0).item() == pytest.approx(expected.item(), rel=1e-3)
    assert objective.size == len(ITEMS) - 2
    held_out = objective.loss([10, 11], 0).item()
    assert judged(objective) == pytest.approx(held_out, rel=1e-4)
    assert judged(objective, batch=1) == pytest.approx(held_out, rel=1e-4)


def test_few_tokens_of_a_step_copy_no_shared_keys_and_values(
    sender: Backbone, receiver: Backbone, tmp_path: Path, key_heads: set[int]
) -> None:
    projector = make_projector(sender, receiver, prompt=2)
    objective = answers(sender, receiver, Embedding(projector), tmp_path)
    key_heads.clear()
    fit(projector, objective, TrainingPlan(steps=1, batch_size=4), tmp_path / "c.pt", title="step")
    assert receiver.spec.kv_heads in key_heads  # those of an answer; a long question's are copied
    assert receiver.spec.kv_heads < receiver.model.config.num_attention_heads


@pytest.mark.parametrize("options", [{}, {"prompt": 3}, {"vectors": 4}], ids=str)
def test_gradients_reach_the_whole_projector_and_no_model(
    options: dict[str, int], sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    projector = make_projector(sender, receiver, **options)
    objective = answers(sender, receiver, Embedding(projector), tmp_path)
    objective.loss([0, 5, 7], 0).backward()
    for name, parameter in projector.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name
    for model in (sender, receiver):
        assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


@pytest.mark.parametrize("kind", ["embedding", "constant", "reader"])
def test_twenty_steps_lower_the_loss_of_answers(
    kind: str, sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    digests = [sender.digest(), receiver.digest()]
    module: Any
    if kind == "embedding":
        module = make_projector(sender, receiver)
        objective = answers(sender, receiver, Embedding(module), tmp_path)
    else:
        torch.manual_seed(0)
        module = FreeVectors(count=4, width=receiver.spec.width, scale=0.3)
        objective = answers(sender, receiver, Constant(module), tmp_path)
        if kind == "reader":
            objective.channel = Constant(FreeVectors(count=1, width=receiver.spec.width))
            objective.receiver = Agent("r", receiver, role=SOLVES, soft=module)
    first = judged(objective)
    plan = TrainingPlan(steps=20, batch_size=5, lr=0.03, warmup=2, every=10, bf16=False)
    history = fit(module, objective, plan, tmp_path / "c.pt", title="toy")
    losses = [loss for _, loss in history.train]
    assert sum(losses[-4:]) < 0.93 * sum(losses[:4])
    assert history.best < first
    assert digests == [sender.digest(), receiver.digest()]


def judged(objective: Answers | Reconstruction, **options: int) -> float:
    """The validation loss, as the loop asks for it."""
    with torch.no_grad():
        return objective.validate(**options)


def nearest(projector: EmbeddingProjector, objective: Reconstruction, rows: Sequence[int]) -> float:
    """How often the nearest word embedding to a projected state is the right word's."""
    right: list[Tensor] = []
    with torch.no_grad():
        for row in rows:
            said = projector(objective.sender_states.states([row]))
            guess = torch.cdist(said.values[0][said.mask[0]], objective.table).argmin(1)
            place, word = objective.pairs[row]
            right.append(guess[place] == word)
    return float(torch.cat(right).float().mean())


@pytest.mark.parametrize("layers", [(0,), (1, 2)], ids=str)
def test_reconstruction_finds_the_receivers_words(
    layers: tuple[int, ...], sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    projector = make_projector(sender, receiver, layers=layers)
    told = StoredStates(Agent("s", sender, role=READS), ITEMS, layers, tmp_path / "states")
    objective = Reconstruction(projector, told, sender, receiver, validation=3)
    states = told.states(range(len(ITEMS)))
    projector.calibrate(states.values[states.mask])
    assert objective.size == len(ITEMS) - 3
    assert (objective.vocabulary.shape[1] > 0) == (layers == (0,))
    held_out = range(objective.size, len(ITEMS))
    before, loss = nearest(projector, objective, held_out), judged(objective)
    plan = TrainingPlan(steps=60, batch_size=9, lr=0.01, warmup=5, every=20, bf16=False)
    history = fit(projector, objective, plan, tmp_path / "c.pt", title="toy")
    assert history.best < 0.5 * loss
    assert before < 0.2
    assert nearest(projector, objective, held_out) > 0.8


def test_the_loss_of_a_reconstruction_depends_on_its_step_alone(
    sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    projector = make_projector(sender, receiver, layers=(0,))
    told = StoredStates(Agent("s", sender, role=READS), ITEMS, (0,), tmp_path / "states")
    objective = Reconstruction(projector, told, sender, receiver, validation=3)
    one = objective.loss([1, 4], 3)
    torch.rand(5)
    assert torch.equal(one, objective.loss([1, 4], 3))
    assert not torch.equal(one, objective.loss([1, 4], 4))


def test_a_perfect_projection_has_no_error(
    receiver: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [item for item in ITEMS if item["context"].isascii()]
    told = StoredStates(Agent("s", receiver, role=READS), plain, (0,), tmp_path / "states")
    projector = make_projector(receiver, receiver, layers=(0,))
    objective = Reconstruction(projector, told, receiver, receiver, validation=3)
    monkeypatch.setattr(objective, "weight", 0.0)
    monkeypatch.setattr(
        objective, "projector", lambda given: replace(given, values=given.values[:, :, 0])
    )
    assert judged(objective) < 1e-4  # states are kept in bfloat16


def test_words_that_nobody_knows_alone_leave_a_finite_loss(
    sender: Backbone, receiver: Backbone, tmp_path: Path
) -> None:
    """Each of the sender's tokens spans several of the receiver's: no word is one to one."""
    pieces = tokenizer_of(["東京", "大阪"], r"..")
    other = Backbone(sender.model, pieces, name="pieces")
    told = StoredStates(
        Agent("s", other, role=Role(template="{context}", chat=False)),
        [{"context": "東京大阪", "question": "?"}] * 4,
        (1,),
        tmp_path / "states",
    )
    projector = make_projector(other, receiver, layers=(1,))
    objective = Reconstruction(projector, told, other, receiver, validation=1)
    assert math.isfinite(judged(objective))
    assert math.isfinite(objective.loss([0, 1], 0).item())


# Alignment ---------------------------------------------------------------------------------------


class Words:
    """A tokenizer alone."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, words: str, frames: object = None) -> tuple[list[int], list[int]]:
        found = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [end for _, end in found["offset_mapping"]]


def tokenizer_of(words: Sequence[str], pattern: str) -> PreTrainedTokenizerFast:
    """Cut a text into what matches a pattern; every word that is not listed is unknown."""
    raw = Tokenizer(WordLevel({"?": 0} | {word: n for n, word in enumerate(words, 1)}, "?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")


def pieces(pattern: str) -> Words:
    return Words(tokenizer_of([], pattern))


@pytest.mark.parametrize(
    "text",
    ["plain words", "déjà vu, naïve Ångström", "東京は大きい", "a 👩‍🚀 flies 🚀", " x  y ", "a"],
)
def test_equal_tokenizers_align_one_to_one(text: str, tiny: Callable[..., Backbone]) -> None:
    one, two = tiny("llama"), tiny("gemma", width=24)
    place, word = align(text, one, two)
    assert word.tolist() == two.tokens(text)
    if text.isascii():
        assert place.tolist() == list(range(len(one.tokens(text))))
    else:  # the bytes of a letter all end where it ends, in its first place
        assert len(place) == len(text.encode())
        assert place.tolist() == sorted(place.tolist())
        assert len(place.unique()) == len(text)


def test_an_empty_text_aligns_nothing() -> None:
    place, word = align("", pieces(r"\s*\S+"), pieces(r"."))
    assert place.dtype == word.dtype == torch.long
    assert len(place) == len(word) == 0


@pytest.mark.parametrize(
    ("text", "sender", "receiver", "expected"),
    [
        ("one two", r"\s*\S+", r".", [0, 0, 0, 1, 1, 1, 1]),
        ("one two", r".", r"\s*\S+", [2, 6]),
        ("abcdef", r"..", r"...", [1, 2]),
        ("abcdef", r"...", r"..", [0, 1, 1]),
        ("né 東京", r"\s*\S+", r".", [0, 0, 1, 1, 1]),
        ("東京🚀", r".", r"..|.", [1, 2]),
        ("🚀🚀", r"..", r".", [0, 0]),
    ],
)
def test_each_token_belongs_to_the_position_in_which_it_ends(
    text: str, sender: str, receiver: str, expected: list[int]
) -> None:
    place, word = align(text, pieces(sender), pieces(receiver))
    assert place.tolist() == expected
    assert len(word) == len(expected)


def test_what_the_sender_does_not_see_belongs_to_its_last_position() -> None:
    """Offsets may end before the text does, as when a tokenizer drops white space."""

    class Short:
        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [1], "offset_mapping": [(0, 1)]}

    place, _ = align("abc", Words(Short()), pieces(r"."))
    assert place.tolist() == [0, 0, 0]


def test_the_shared_vocabulary_holds_whole_words_of_both(tiny: Callable[..., Backbone]) -> None:
    one, two = tiny("llama"), tiny("gemma", width=24)
    ours, theirs = shared_vocabulary(one, two)
    words = [one.tokenizer.decode([n]) for n in ours]
    assert words == [two.tokenizer.decode([n]) for n in theirs]
    assert {"a", " ", "~"} <= set(words)
    assert "\ufffd" not in words
    assert not set(ours) & set(one.tokenizer.all_special_ids)


# States on disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_states, "_SHARD", 5)


@pytest.fixture
def speaker(sender: Backbone) -> Agent:
    return Agent("s", sender, role=READS)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("layers", [(0,), (1, 3), (-1,)], ids=str)
def test_stored_states_are_those_of_reading(
    layers: tuple[int, ...], speaker: Agent, tmp_path: Path
) -> None:
    stored = StoredStates(speaker, ITEMS, layers, tmp_path)
    assert len(stored) == len(ITEMS)
    needs = frozenset(Need("hidden", layer) for layer in layers)
    for rows in ([0], [11], [4, 5, 9], [7, 2, 7]):
        states, told = stored.states(rows), stored(rows)
        assert states.values.dtype == torch.bfloat16
        for n, row in enumerate(rows):
            read = speaker.read(fields_of([ITEMS[row]]), needs=needs)
            for place, layer in enumerate(layers):
                expected = read.hidden[layer].values[0].bfloat16()
                found = states.values[n, states.mask[n], place]
                if layer == 0:  # embeddings are exact, whatever the batch
                    assert torch.equal(found, expected)
                assert torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.02)
                hidden = told.hidden[layer]
                assert torch.equal(hidden.values[n, hidden.mask[n]], found)
    assert told.given == tuple(" " + ITEMS[row]["context"] for row in rows)
    assert (told.agent, told.spec) == ("s", speaker.model.spec)


@pytest.mark.usefixtures("small_shards")
def test_shards_are_the_same_as_computing_at_once(
    speaker: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = StoredStates(speaker, ITEMS, (0, 2), tmp_path / "parts")
    assert len(list(parts.folder.iterdir())) == 3
    one = parts.states(range(12))
    monkeypatch.setattr(stored_states, "_SHARD", 100)
    whole = StoredStates(speaker, ITEMS, (0, 2), tmp_path / "whole")
    assert len(list(whole.folder.iterdir())) == 1
    two = whole.states(range(12))
    assert torch.equal(one.mask, two.mask)
    assert torch.allclose(one.values.float(), two.values.float(), rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("small_shards")
def test_states_are_computed_once(speaker: Agent, passes: Any, tmp_path: Path) -> None:
    with passes(speaker.model) as seen:
        first = StoredStates(speaker, ITEMS, (0, 2), tmp_path)
        assert len(seen) == 3
        again = StoredStates(speaker, ITEMS, [0, 2], tmp_path)
        assert len(seen) == 3
    assert again.folder == first.folder
    assert torch.equal(again.states([3, 8]).values, first.states([3, 8]).values)


def test_other_thoughts_stand_in_another_folder(
    sender: Backbone, tiny: Callable[..., Backbone], tmp_path: Path
) -> None:
    half = Backbone(copy.deepcopy(sender.model).to(torch.bfloat16), sender.tokenizer, name="half")
    made = [
        StoredStates(Agent("s", backbone, role=role), items, layers, tmp_path).folder
        for backbone, role, items, layers in (
            (sender, READS, ITEMS, (0,)),
            (sender, READS, ITEMS, (1,)),
            (sender, READS, ITEMS, (0, 1)),
            (sender, READS, ITEMS[:-1], (0,)),
            (sender, replace(READS, instructions="Read: "), ITEMS, (0,)),
            (sender, replace(READS, template="{context}"), ITEMS, (0,)),
            (sender, replace(READS, chat=True), ITEMS, (0,)),
            (tiny("gemma", width=24, seed=1), READS, ITEMS, (0,)),
            (half, READS, ITEMS, (0,)),
        )
    ]
    assert len(set(made)) == len(made)
    renamed = Agent("other", Backbone(sender.model, sender.tokenizer, name="other"), role=READS)
    assert StoredStates(renamed, ITEMS, (0,), tmp_path).folder == made[0]


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_a_killed_run_leaves_whole_shards_alone(
    moment: str, speaker: Agent, passes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def last(original: Callable[..., Any], count: int) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == count:
                raise KeyboardInterrupt
            return original(*given, **options)

        return call

    with monkeypatch.context() as patch:
        if moment == "reading":
            patch.setattr(Agent, "read", last(Agent.read, 3))
        else:
            patch.setattr(os, "fsync", last(os.fsync, 5))  # of a file and its folder
        with pytest.raises(KeyboardInterrupt):
            StoredStates(speaker, ITEMS, (0,), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "states-000000.safetensors",
        "states-000005.safetensors",
    ]
    with passes(speaker.model) as seen:
        stored = StoredStates(speaker, ITEMS, (0,), tmp_path)
    assert len(seen) == 1
    assert stored.folder == folder
    assert stored.states(range(12)).values.shape[0] == 12


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["cut", "flipped", "older", "no number", "swapped", "fewer"])
def test_damaged_states_are_moved_aside_and_computed_again(
    damage: str, speaker: Agent, tmp_path: Path
) -> None:
    first = StoredStates(speaker, ITEMS, (0, 2), tmp_path)
    wanted = first.states(range(12)).values.clone()
    path, other = (first.folder / f"states-{start:06}.safetensors" for start in (0, 5))
    data, found = path.read_bytes(), kept.load(path, "states")
    tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
    path.unlink()  # its pages are in use
    match damage:
        case "cut":
            path.write_bytes(data[:-5])
        case "flipped":
            path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
        case "swapped":
            path.write_bytes(other.read_bytes())
        case "older":
            save_file(tensors, path)
        case "no number":
            tensors["3"][0, 0, 0] = math.nan
            kept.save(path, "states", found.content, tensors)
        case _:
            kept.save(path, "states", found.content, {**tensors, "3": tensors["3"][:, :1]})
    with pytest.warns(UserWarning, match=r"states-000000\.safetensors .* It is made anew"):
        again = StoredStates(speaker, ITEMS, (0, 2), tmp_path)
    assert torch.equal(again.states(range(12)).values, wanted)
    assert path.with_name(f"{path.name}.damaged").exists()
    StoredStates(speaker, ITEMS, (0, 2), tmp_path)  # and that was all


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_bfloat16_is_used_where_it_is_quick(
    monkeypatch: pytest.MonkeyPatch, able: bool, asked: bool
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    with in_bfloat16(torch.device("cpu"), asked=asked):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if able and asked else torch.float32)
