"""Checkpoints that others have published, and the transformers classes that load them.

LLaDA's and Dream's code is written for transformers 4 and does not run with version 5. It is
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
from unspoken.backbone.loaded import settings_of, shared
from unspoken.errors import IncompatibleModels

__all__ = ["Published", "model_type", "published"]


@dataclass(frozen=True, slots=True)
class Published:
    """A kind of checkpoint: how it is used, its class in transformers, and its names.

    tokenizer: the class of its tokenizer, which may come with code too. config: maps its settings
    to those of its class. names: patterns of its tensors' names to ours.
    """

    masked: Masked
    kind: str
    tokenizer: str
    config: Callable[[Mapping[str, Any]], PretrainedConfig]
    names: Mapping[str, str] = field(default_factory=dict[str, str])

    def load(self, where: str, **hf: Any) -> Any:
        """The model. Raises `IncompatibleModels` if the checkpoint has another structure."""
        config = self.config(settings_of(where, **shared(hf)))
        kind: Any = getattr(transformers, self.kind)
        return kind.from_pretrained(where, config=config, key_mapping=dict(self.names), **hf)

    def load_tokenizer(self, where: str, **hf: Any) -> Any:
        kind: Any = getattr(transformers, self.tokenizer)
        return kind.from_pretrained(where, **hf)


def model_type(where: str, **hf: Any) -> str:
    """The model type that a folder or a name on the hub gives, '' if there is none."""
    try:
        return str(settings_of(where, **hf).get("model_type", ""))
    except (OSError, ValueError):  # no such place, or no name at all: loading it will say so
        return ""


def published(where: str, **hf: Any) -> Published | None:
    """What is known of a checkpoint, or None if its folder says how it is used."""
    return None if (Path(where) / FILE).is_file() else _KNOWN.get(model_type(where, **hf).lower())


def _llama(given: Mapping[str, Any]) -> PretrainedConfig:
    """LLaDA's settings as a Llama's. What a Llama does not have must be off."""
    odd = [name for name in _NOT_LLAMA if given.get(name)]
    if odd or given.get("block_type", "llama") != "llama" or given.get("block_group_size", 1) != 1:
        raise IncompatibleModels(
            f"this LLaDA checkpoint is no Llama: {', '.join(odd) or 'its blocks are grouped'}. "
            "Use GSAI-ML/LLaDA-8B-Base or GSAI-ML/LLaDA-8B-Instruct"
        )
    return LlamaConfig(
        vocab_size=given.get("embedding_size") or given["vocab_size"],
        hidden_size=given["d_model"],
        intermediate_size=given["mlp_hidden_size"],
        num_hidden_layers=given["n_layers"],
        num_attention_heads=given["n_heads"],
        num_key_value_heads=given.get("n_kv_heads") or given["n_heads"],
        max_position_embeddings=given["max_sequence_length"],
        rms_norm_eps=given["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": given["rope_theta"]},
        tie_word_embeddings=given.get("weight_tying", False),
        eos_token_id=given.get("eos_token_id"),
        pad_token_id=given.get("pad_token_id"),
    )


_NOT_LLAMA = (
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


def _qwen(settings: Mapping[str, Any]) -> PretrainedConfig:
    """Dream's settings are those of Qwen2, and a few more."""
    dropped = ("model_type", "architectures", "auto_map", "mask_token_id", "transformers_version")
    found = {name: value for name, value in settings.items() if name not in dropped}
    if "rope_theta" in found and found.get("rope_scaling") is None:  # as version 4 wrote it
        found.pop("rope_scaling", None)
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": found.pop("rope_theta")}
    return Qwen2Config(**found)


_KNOWN = {
    "llada": Published(LLADA, "LlamaForCausalLM", "PreTrainedTokenizerFast", _llama, _LLADA_NAMES),
    "dream": Published(DREAM, "Qwen2ForCausalLM", "Qwen2Tokenizer", _qwen),
}
