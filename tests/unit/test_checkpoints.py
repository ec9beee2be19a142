"""What a checkpoint brings along: settings for `generate`, adapters, quantised weights, folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from transformers import AutoModelForCausalLM, BartConfig, GenerationConfig, LlamaConfig, T5Config

from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.backbone import Backbone
from unspoken.backbone import loaded as loading
from unspoken.backbone.load import load_model
from unspoken.channels import Handoff
from unspoken.errors import IncompatibleModels
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import tiny_backbone
from unspoken.types import Prompt, Settings, Text

WORDS = "Ada keeps the green key in a drawer by the window."
SHORT = Settings(max_tokens=12)


def written(model: Backbone, words: str = WORDS) -> tuple[int, ...]:
    return model.write(model.read(Prompt((Text((words,)),))).context, SHORT).ids[0]


def plain(model: Any, ids: list[int]) -> tuple[int, ...]:
    """What plain `generate` writes with the model's own weights and nothing else."""
    twin = deepcopy(model)
    twin.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    given = torch.tensor([ids])
    mask = torch.ones_like(given)
    out = twin.generate(given, attention_mask=mask, max_new_tokens=12, do_sample=False)
    return tuple(out[0, len(ids) :].tolist())


def folder_of(model: Backbone, folder: Path) -> Path:
    cast(Any, model.model).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


# -- settings for generate -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"use_cache": False},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(40, 200))},
        {"num_beams": 3},
        {"return_dict_in_generate": True, "output_scores": True},
        {"stop_strings": ["e", "a"]},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"repetition_penalty": 5.0},
        {"forced_eos_token_id": 2, "max_length": 3, "min_length": 90},
        {"bad_words_ids": [[n] for n in range(40, 200)]},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_of_a_checkpoint_change_no_answer(settings: dict[str, Any]):
    model = tiny_backbone("llama")
    right = plain(model.model, model.tokens(WORDS))
    for name, value in settings.items():
        setattr(model.model.generation_config, name, value)
    model.model.config.use_cache = settings.get("use_cache", True)
    assert written(model) == right


def test_ends_are_those_of_the_checkpoint_and_of_the_tokenizer():
    model = tiny_backbone("llama")
    (first, second, *_) = written(model)
    model.model.generation_config.eos_token_id = None
    model.model.config.eos_token_id = [second]
    assert set(model.ends) == {second, model.tokenizer.eos_token_id}
    assert written(model) == ((first, second) if first != second else (first,))
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(first)
    assert written(model) == (first,)


# -- identity --------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], Any]] = {
    "rope": lambda c: c.rope_parameters.update(rope_type="linear", factor=2.0),
    "theta": lambda c: c.rope_parameters.update(rope_theta=77.0),
    "epsilon": lambda c: setattr(c, "rms_norm_eps", 0.1),
    "kinds": lambda c: setattr(c, "hidden_act", "relu"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_weights_with_other_settings_are_another_model(change: str):
    model = tiny_backbone("llama")
    config = deepcopy(model.model.config)
    CHANGES[change](config)
    twin = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    twin.load_state_dict(model.model.state_dict())
    other = Backbone(twin, model.tokenizer, name="other")
    assert other.spec.former == model.spec.former  # of the weights alone
    assert other.fingerprint != model.fingerprint
    with pytest.raises(IncompatibleModels, match="same weights"):
        Pipeline([Agent("a", model), Agent("b", other)], [Edge("a", "b", Handoff())])
    pool = AnchorPool("exact")
    for one in (model, other):  # the second reuses nothing of the first
        reader = pool.wrap(one)
        context = reader.read(Prompt((Text((WORDS,)),))).context
        assert reader.write(context, SHORT).ids[0] == plain(one.model, one.tokens(WORDS))
    assert pool.state().tokens["exact"] == 0


def test_equal_weights_stay_equal_in_another_folder_and_precision(tmp_path: Path):
    model = tiny_backbone("qwen")
    folder = folder_of(model, tmp_path / "there")
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_cache": False, "unsloth_version": "9", "eos_token_id": 7, "torch_dtype": "x"}
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    found = Backbone.from_pretrained(str(folder))
    half = Backbone.from_pretrained(str(folder), dtype=torch.bfloat16)
    assert found.fingerprint == half.fingerprint == model.fingerprint
    assert found.spec.dtype != half.spec.dtype


def test_weights_that_change_in_place_are_noticed():
    model = tiny_backbone("llama", seed=1)
    prompt = Prompt((Text(("Be brief. ",), shared=True), Text((WORDS,))))
    before = model.fingerprint, model.write(model.read(prompt).context, SHORT).ids
    model.model.load_state_dict(tiny_backbone("llama", seed=2).model.state_dict())
    fresh = tiny_backbone("llama", seed=2)
    assert model.fingerprint == fresh.fingerprint != before[0]
    found, right = (one.write(one.read(prompt).context, SHORT).ids for one in (model, fresh))
    assert found == right != before[1]
    assert torch.equal(model.table, fresh.table)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's own
def test_each_adapter_is_a_model_of_its_own():
    peft = pytest.importorskip("peft")
    base = tiny_backbone("llama")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base.model, config, adapter_name="one")
    wrapped.add_adapter("two", config)
    model = Backbone(wrapped.eval().requires_grad_(False), base.tokenizer, name="adapted")
    pool = AnchorPool("exact").wrap(model)
    ids, seen, told = model.tokens(WORDS), set[str](), list[tuple[int, ...]]()
    for name in ("one", "two", "one", ""):
        wrapped.set_adapter(name or "one")
        off = wrapped.base_model.disable_adapter_layers
        (off if not name else wrapped.base_model.enable_adapter_layers)()
        right = plain(model.model, ids)
        seen.add(model.fingerprint)
        context = pool.read(Prompt((Text((WORDS,)),))).context
        assert pool.write(context, SHORT).ids[0] == written(model) == right, name
        told.append(right)
    assert len(seen) == 3
    assert len(set(told)) == 3


class Packed(nn.Module):
    """A layer whose weight is a buffer of whole numbers, as those of GPTQ are."""

    def __init__(self, layer: nn.Linear, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randint(-9, 9, layer.weight.shape, generator=generator)
        self.register_buffer("qweight", numbers.to(torch.int8))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states @ (self.qweight.float() / 9).mT


def test_weights_held_as_buffers_count():
    models = []
    for seed in (0, 1):
        model = tiny_backbone("llama")
        layer = model.model.model.layers[0].self_attn
        layer.o_proj = Packed(layer.o_proj, seed)
        models.append(model)
    one, two = models
    assert one.fingerprint != two.fingerprint
    before = one.digest()
    one.model.model.layers[0].self_attn.o_proj.qweight.add_(1)
    assert one.digest() != before


# -- loading ---------------------------------------------------------------------------------------


def test_a_model_is_loaded_by_an_agent(tmp_path: Path):
    folder = folder_of(tiny_backbone("llama"), tmp_path / "model")
    agent = Agent("solver", str(folder), role=Role(chat=False))
    assert agent.spec.weights == tiny_backbone("llama").fingerprint


def test_options_reach_the_tokenizer_too(tmp_path: Path):
    folder_of(tiny_backbone("llama"), tmp_path / "sub")
    model = Backbone.from_pretrained(str(tmp_path), subfolder="sub")
    assert written(model) == written(tiny_backbone("llama"))
    assert load_model(str(tmp_path), subfolder="sub").fingerprint == model.fingerprint


@pytest.mark.parametrize("where", ["disk", "cpu"])
def test_a_model_that_is_spread_by_a_map_stays_where_it_is(tmp_path: Path, where: str):
    whole = tiny_backbone("llama")
    folder = folder_of(whole, tmp_path / "model")
    parts = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    parts |= {"lm_head": "cpu", **{f"model.layers.{n}": where for n in range(3)}}
    model = Backbone.from_pretrained(
        str(folder), device_map=parts, offload_folder=str(tmp_path / "offloaded")
    )
    assert written(model) == written(whole)
    assert model.fingerprint == whole.fingerprint
    assert model.digest() == whole.digest()


def test_half_precision_is_loaded_as_what_the_device_multiplies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    half = tiny_backbone("llama").model.bfloat16()
    folder = folder_of(Backbone(half, tiny_backbone("llama").tokenizer), tmp_path / "half")
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda device: True)
    assert Backbone.from_pretrained(str(folder)).dtype == torch.bfloat16
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda device: False)
    with pytest.warns(UserWarning, match="does not multiply bfloat16 in hardware"):
        found = Backbone.from_pretrained(str(folder))
    assert found.dtype == torch.float32
    assert Backbone.from_pretrained(str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["bart", "t5", "headless"])
def test_what_is_no_causal_model_is_refused(tmp_path: Path, kind: str):
    from transformers import AutoModel, AutoModelForSeq2SeqLM

    sizes = {"vocab_size": 260, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    bart = {"vocab_size": 260, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    made: dict[str, Callable[[], Any]] = {
        "t5": lambda: AutoModelForSeq2SeqLM.from_config(T5Config(**sizes, num_heads=4)),
        "bart": lambda: AutoModelForSeq2SeqLM.from_config(BartConfig(**bart)),
        "headless": lambda: AutoModel.from_config(
            LlamaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
        ),
    }
    made[kind]().save_pretrained(tmp_path)
    tiny_backbone("llama").tokenizer.save_pretrained(tmp_path)
    says = "saved without lm_head" if kind == "headless" else "is an encoder-decoder"
    with pytest.raises(IncompatibleModels, match=says):
        Backbone.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("change", ["train", "requires_grad_"])
def test_a_model_that_could_be_trained_is_changed_with_a_warning(change: str):
    model = tiny_backbone("llama")
    with pytest.warns(UserWarning, match="is now in evaluation mode and its weights take no grad"):
        Backbone(getattr(model.model, change)(), model.tokenizer, name="mine")
    assert not model.model.training
    assert not any(one.requires_grad for one in model.model.parameters())
    Backbone(model.model, model.tokenizer, name="mine")  # nothing is left to say


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, 256),
        ({"rope_type": "linear", "factor": 2.0}, 512),
        ({"rope_type": "dynamic", "factor": 2.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, 256),
    ],
)
def test_a_scaled_model_reads_its_scaled_length(rope: dict[str, Any], positions: int):
    model = tiny_backbone("llama")
    config = deepcopy(model.model.config)
    config.rope_parameters = {"rope_theta": 1e4, **rope}
    scaled = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    assert Backbone(scaled, model.tokenizer).spec.positions == positions


# -- long prompts ----------------------------------------------------------------------------------


def test_a_long_prompt_after_a_short_instruction_needs_no_mask(monkeypatch: pytest.MonkeyPatch):
    model, masks = tiny_backbone("llama"), list[Any]()
    whole = model.predict(model.read(Prompt((Text(("Be brief. " + WORDS,)),))).context)
    real = nn.functional.scaled_dot_product_attention

    def spied(*args: Any, **kwargs: Any) -> torch.Tensor:
        masks.append(kwargs.get("attn_mask"))
        return real(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spied)
    apart = Prompt((Text(("Be brief. ",), shared=True), Text((WORDS,))))
    context = model.read(apart).context
    assert masks
    assert all(mask is None for mask in masks)
    torch.testing.assert_close(model.predict(context), whole, atol=1e-4, rtol=1e-4)
    long = Prompt((Text((WORDS * 3,), shared=True), Text((WORDS,))))
    masks.clear()
    model.read(long)  # few tokens after a long cache
    assert any(mask is not None for mask in masks)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
@pytest.mark.parametrize("kind", ["prefix", "prompt", "p-tuning"])
def test_an_adapter_that_puts_vectors_in_front_of_every_prompt_is_refused(kind: str):
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    made = {
        "prefix": PrefixTuningConfig,
        "prompt": PromptTuningConfig,
        "p-tuning": PromptEncoderConfig,
    }
    tiny = tiny_backbone("llama")
    adapter = made[kind](task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(IncompatibleModels, match=r"vectors in front of every prompt.*LoRA"):
        Backbone(get_peft_model(tiny.model, adapter), tiny.tokenizer)


@pytest.mark.parametrize("hooked", [False, True], ids=["alone", "kept nowhere by accelerate"])
def test_a_tensor_without_numbers_is_refused(hooked: bool):
    tiny = tiny_backbone("llama")
    part = tiny.model.model.layers[0].self_attn.q_proj
    if hooked:
        add_hook_to_module(part, AlignDevicesHook("cpu", offload=True, weights_map={}))
    else:
        part.to("meta")
    with pytest.raises(IncompatibleModels, match="'weight' of a Linear holds no numbers"):
        _ = Backbone(tiny.model, tiny.tokenizer).fingerprint


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_proof_that_runs_out_of_memory_says_nothing_of_the_model(error: Exception):
    model = tiny_backbone("llama")

    def fail(*given: Any) -> None:
        raise error

    handle = model.body.register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        _ = model.keeps
    handle.remove()
    assert model.keeps
