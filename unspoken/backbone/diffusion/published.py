"""Checkpoints that others have published: what they are in transformers, by another name.

LLaDA's and Dream's own code is written for transformers 4 and does not run with version 5. It is
not needed: LLaDA 8B is a Llama and Dream 7B a Qwen2 in which every position sees every other.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from unspoken.backbone.diffusion.layouts import DREAM, FILE, LLADA, Masked
from unspoken.errors import IncompatibleModels

__all__ = ["Published", "model_type", "published"]


@dataclass(frozen=True, slots=True)
class Published:
    """A kind of checkpoint: how it is used, its class in transformers, and its names.

    tokenizer: the class of its tokenizer, which may come with code of its own too. config: its
    settings to those of its class. names: patterns of its tensors' names to ours.
    """

    masked: Masked
    kind: str
    tokenizer: str
    config: Callable[[Mapping[str, Any]], PretrainedConfig]
    names: Mapping[str, str] = field(default_factory=dict[str, str])

    def load(self, where: str, **hf: Any) -> Any:
        """The model. Raises `IncompatibleModels` if the checkpoint is built otherwise."""
        config = self.config(_settings(where))
        kind: Any = getattr(transformers, self.kind)
        return kind.from_pretrained(where, config=config, key_mapping=dict(self.names), **hf)

    def load_tokenizer(self, where: str) -> Any:
        kind: Any = getattr(transformers, self.tokenizer)
        return kind.from_pretrained(where)


def model_type(where: str) -> str:
    """What a folder or a name on the hub says that it is, '' if it says nothing."""
    try:
        return str(_settings(where).get("model_type", ""))
    except (OSError, ValueError):  # no such place, or no name at all: whoever loads it says so
        return ""


def published(where: str) -> Published | None:
    """What is known of a checkpoint; None if its folder says itself how it is used."""
    return None if (Path(where) / FILE).is_file() else _KNOWN.get(model_type(where).lower())


def _settings(where: str) -> dict[str, Any]:
    return PretrainedConfig.get_config_dict(where)[0]


def _llama(told: Mapping[str, Any]) -> PretrainedConfig:
    """LLaDA's settings; what a Llama does not have must be off."""
    odd = [name for name in _UNLIKE if told.get(name)]
    if odd or told.get("block_type", "llama") != "llama" or told.get("block_group_size", 1) != 1:
        raise IncompatibleModels(
            f"this LLaDA checkpoint is no Llama: {', '.join(odd) or 'its blocks are grouped'}; "
            "use GSAI-ML/LLaDA-8B-Base or GSAI-ML/LLaDA-8B-Instruct"
        )
    return LlamaConfig(
        vocab_size=told.get("embedding_size") or told["vocab_size"],
        hidden_size=told["d_model"],
        intermediate_size=told["mlp_hidden_size"],
        num_hidden_layers=told["n_layers"],
        num_attention_heads=told["n_heads"],
        num_key_value_heads=told.get("n_kv_heads") or told["n_heads"],
        max_position_embeddings=told["max_sequence_length"],
        rms_norm_eps=told["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": told["rope_theta"]},
        tie_word_embeddings=told.get("weight_tying", False),
        eos_token_id=told.get("eos_token_id"),
        pad_token_id=told.get("pad_token_id"),
    )


_UNLIKE = (
    "alibi",
    "attention_layer_norm",
    "include_bias",
    "include_qkv_bias",
    "input_emb_norm",
    "scale_logits",
)

_LLADA_NAMES = {
    r"model\.transformer\.wte": "model.embed_tokens",
    r"model\.transformer\.ln_f": "model.norm",
    r"model\.transformer\.ff_out": "lm_head",
    r"model\.transformer\.blocks": "model.layers",
    r"(\d+)\.attn_norm": r"\1.input_layernorm",
    r"(\d+)\.ff_norm": r"\1.post_attention_layernorm",
    r"(\d+)\.q_proj": r"\1.self_attn.q_proj",
    r"(\d+)\.k_proj": r"\1.self_attn.k_proj",
    r"(\d+)\.v_proj": r"\1.self_attn.v_proj",
    r"(\d+)\.attn_out": r"\1.self_attn.o_proj",
    r"(\d+)\.ff_proj": r"\1.mlp.gate_proj",
    r"(\d+)\.up_proj": r"\1.mlp.up_proj",
    r"(\d+)\.ff_out": r"\1.mlp.down_proj",
}


def _qwen(told: Mapping[str, Any]) -> PretrainedConfig:
    """Dream's settings are those of Qwen2, and a few more."""
    own = ("model_type", "architectures", "auto_map", "mask_token_id", "transformers_version")
    found = {name: value for name, value in told.items() if name not in own}
    if "rope_theta" in found and found.get("rope_scaling") is None:  # as version 4 wrote it
        found.pop("rope_scaling", None)
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": found.pop("rope_theta")}
    return Qwen2Config(**found)


_KNOWN = {
    "llada": Published(LLADA, "LlamaForCausalLM", "PreTrainedTokenizerFast", _llama, _LLADA_NAMES),
    "dream": Published(DREAM, "Qwen2ForCausalLM", "Qwen2Tokenizer", _qwen),
}
