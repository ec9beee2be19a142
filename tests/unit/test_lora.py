"""LoRA on the receiver: what is trained, what stays, what is saved."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.errors import Damaged, DataError, IncompatibleModels, MissingExtra, TrainingError
from unspoken.testing import tiny_backbone
from unspoken.training import TrainingPlan, fit
from unspoken.training.lora import Adapted, load_lora, save_lora, with_lora
from unspoken.types import Prompt, Text

pytestmark = pytest.mark.numbers

FIELDS = {"question": ("Where?", "Which of the two?"), "context": ("", "")}
ANSWERS = ("here", "both of them")
KINDS = ["llama", "gemma"]


def loss_of(model: Backbone, lead: str = "Answer briefly. ") -> Tensor:
    agent = Agent("solver", model, role=Role(lead, chat=False))
    return model.score(agent.read(FIELDS).context, ANSWERS).mean()


def step(adapted: Adapted, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(adapted.adapter.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(adapted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture
def adapted(base: Backbone) -> Adapted:
    return with_lora(base, 4000, seed=0)


@torch.no_grad()
def test_untrained_it_is_the_base_and_keeps_its_shape(base: Backbone, adapted: Adapted) -> None:
    assert torch.equal(loss_of(adapted), loss_of(base))
    assert adapted.name == f"{base.name}+lora"
    assert adapted.fingerprint != base.fingerprint
    same = {"name": "", "weights": "", "former": ""}
    assert replace(adapted.spec, **same) == replace(base.spec, **same)


@pytest.mark.parametrize(
    ("parameters", "rank"), [(1824, 1), (2700, 1), (2800, 2), (4000, 2), (18_300, 10)]
)
def test_the_rank_comes_nearest_to_the_number_of_parameters(parameters: int, rank: int) -> None:
    adapted = with_lora(tiny_backbone(), parameters, seed=0)
    assert (adapted.config.r, adapted.config.lora_alpha) == (rank, 2 * rank)
    assert adapted.size == rank * 1824
    trained = [p for p in adapted.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == adapted.size
    layers = [m for m in tiny_backbone().model.model.modules() if isinstance(m, nn.Linear)]
    assert sum(m.in_features + m.out_features for m in layers) == 1824


def test_too_few_parameters_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"900 parameters are too few .* a rank takes 1824"):
        with_lora(tiny_backbone(), 900, seed=0)


def test_the_seed_decides_where_it_starts(base: Backbone) -> None:
    def start(seed: int) -> Tensor:
        adapter = with_lora(base, 4000, seed=seed).adapter
        return torch.cat([p.detach().flatten() for p in adapter.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_it_learns_and_the_base_does_not(base: Backbone, adapted: Adapted) -> None:
    before, alone = base.digest(), loss_of(base).detach()
    losses = step(adapted, 10)
    assert losses[-1] < 0.8 * losses[0]
    assert base.digest() == before
    assert torch.equal(loss_of(base), alone)
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_the_weights_are_shared_with_the_base(base: Backbone, adapted: Adapted) -> None:
    own = {p.data_ptr() for p in adapted.adapter.parameters()}
    ours = {p.data_ptr() for p in adapted.model.parameters()} - own
    assert ours == {p.data_ptr() for p in base.model.parameters()}


def test_gradients_reach_every_matrix_through_the_lead_too(adapted: Adapted) -> None:
    step(adapted, 1)  # before that B is zero, and A has no gradient
    adapted.adapter.zero_grad()
    lead = Prompt((Text(("Answer briefly. ",) * 2, shared=True), Text(("a", "b"))))
    kv = adapted.read(lead).context.kv
    at_lead = sum(keys[:, :, :4].sum() + values[:, :, :4].sum() for keys, values in kv[-1:])
    assert isinstance(at_lead, Tensor)
    at_lead.backward()
    reached = {n.split("/")[2] for n, p in adapted.adapter.items() if p.grad is not None}
    assert reached == {"0", "1", "2"}
    adapted.adapter.zero_grad()
    loss_of(adapted).backward()
    for name, parameter in adapted.adapter.items():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_a_lead_is_not_remembered_from_before_a_step(adapted: Adapted) -> None:
    with torch.no_grad():
        before = loss_of(adapted)
    step(adapted, 2)
    with torch.no_grad():
        after = loss_of(adapted)
        afresh = loss_of(adapted.frozen())
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, afresh)


def test_frozen_it_has_the_identity_of_what_it_learned(base: Backbone, tmp_path: Path) -> None:
    models = [with_lora(base, 4000, seed=0) for _ in range(3)]
    for model, steps in zip(models, (0, 2, 2), strict=True):
        step(model, steps)
    assert len({model.fingerprint for model in models}) == 3
    start, one, other = (model.frozen() for model in models)
    assert one.fingerprint == other.fingerprint != start.fingerprint
    assert one.spec.weights == one.fingerprint
    assert not any(p.requires_grad for p in one.model.parameters())


class Fall:
    """The loss of two questions, as `fit` wants it."""

    size = 2

    def __init__(self, adapted: Adapted) -> None:
        self.adapted = adapted

    def length(self, row: int) -> int:
        return 1

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        return loss_of(self.adapted)

    def validate(self) -> float:
        return float(loss_of(self.adapted))


def test_fit_trains_the_adapter_alone(adapted: Adapted, tmp_path: Path) -> None:
    plan = TrainingPlan(steps=4, batch_size=2, lr=1e-2, warmup=1, every=2, bf16=False)
    checkpoint = tmp_path / "lora.pt"
    history = fit(adapted.adapter, Fall(adapted), plan, checkpoint, title="lora")
    with torch.no_grad():
        again = float(loss_of(adapted))
    assert again == pytest.approx(history.best, rel=1e-5)  # `fit` attends within `few_tokens`
    assert history.best < history.train[0][1]
    found = load_file(checkpoint)
    sizes = [one.numel() for name, one in found.items() if name.startswith("module.")]
    assert sum(sizes) == adapted.size


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(base: Backbone, adapted: Adapted, tmp_path: Path) -> None:
    with torch.enable_grad():
        step(adapted, 2)
    save_lora(adapted, tmp_path / "lora")
    loaded, frozen = load_lora(base, tmp_path / "lora"), adapted.frozen()
    ids = torch.arange(10, 20)[None]
    assert torch.equal(loaded.model(ids).logits, frozen.model(ids).logits)
    assert not torch.equal(loaded.model(ids).logits, base.model(ids).logits)
    assert loaded.fingerprint == frozen.fingerprint
    assert loaded.name == adapted.name
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("damage", ["flipped", "settings", "swapped", "missing", "rank"])
def test_a_damaged_adapter_is_refused(
    damage: str, base: Backbone, adapted: Adapted, tmp_path: Path
) -> None:
    step(adapted, 2)
    save_lora(adapted, tmp_path)
    path, settings = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    tensors = load_file(path)
    match damage:
        case "flipped":
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "settings":
            settings.write_text(settings.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
        case "swapped":
            save_lora(with_lora(base, adapted.size * 2, seed=1), tmp_path / "other")
            path.write_bytes((tmp_path / "other" / path.name).read_bytes())
        case "missing":  # from here on without a digest
            del tensors[min(tensors)]
            save_file(tensors, path, {"base": base.fingerprint})
        case _:
            save_file(tensors, path, {"base": base.fingerprint})
            settings.write_text(re.sub(r'"r": \d+', '"r": 1000000000000', settings.read_text()))
    with pytest.raises(Damaged, match=r"adapter_.*; train the adapter again"):
        load_lora(base, tmp_path)


def test_an_adapter_without_a_digest_is_loaded(
    base: Backbone, adapted: Adapted, tmp_path: Path
) -> None:
    step(adapted, 2)
    save_lora(adapted, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "base": base.fingerprint})
    assert load_lora(base, tmp_path).fingerprint == adapted.frozen().fingerprint


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own use
def test_peft_reads_the_files_too(base: Backbone, adapted: Adapted, tmp_path: Path) -> None:
    with torch.enable_grad():
        step(adapted, 2)
    save_lora(adapted, tmp_path / "lora")
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    ids = torch.arange(10, 20)[None]
    theirs = PeftModel.from_pretrained(base.model, str(tmp_path / "lora")).eval()
    assert torch.equal(theirs(ids).logits, adapted.model(ids).logits)


def test_other_weights_and_empty_folders_are_refused(adapted: Adapted, tmp_path: Path) -> None:
    save_lora(adapted, tmp_path)
    with pytest.raises(
        IncompatibleModels, match=r"was trained on weights .* but 'tiny-qwen.* Load"
    ):
        load_lora(tiny_backbone("qwen"), tmp_path)
    with pytest.raises(DataError, match=r"holds no adapter_model\.safetensors\. Give"):
        load_lora(adapted.base, tmp_path / "none")


def test_half_precision_weights_have_float32_adapters(base: Backbone, tmp_path: Path) -> None:
    base.model.bfloat16()
    adapted = with_lora(base, 4000, seed=0)
    assert {p.dtype for p in adapted.adapter.parameters()} == {torch.float32}
    losses = step(adapted, 5)
    assert losses[-1] < losses[0]
    save_lora(adapted, tmp_path)
    with torch.no_grad():
        assert torch.equal(loss_of(load_lora(base, tmp_path)), loss_of(adapted.frozen()))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[lora\]'"):
        with_lora(tiny_backbone(), 4000, seed=0)
