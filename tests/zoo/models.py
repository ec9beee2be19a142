"""A tiny random model of every family that transformers knows as a causal language model.

`build("mpt")` makes one in a moment: its configuration keeps all that is peculiar to the family,
and every number that only costs time is small. Weights are drawn anew, wider than a family's own
initialisation, so that tokens differ from one another and a wrong cache shows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.zoo.families import NOT_BUILT, PLAIN
from tests.zoo.parts import PARTS
from tests.zoo.sizes import LLAMA3, SMALL, VOCABULARY, WINDOW, YARN

__all__ = [
    "MORE",
    "NAMES",
    "NOT_BUILT",
    "REFUSED_KINDS",
    "VOCABULARY",
    "WINDOW",
    "build",
    "build_more",
    "config_of",
]

NAMES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_PER_FAMILY: dict[str, dict[str, Any]] = {**PLAIN, **PARTS}

# The matrices that make queries and keys: large ones let a position look at few others.
_SHARP = {"q_proj", "k_proj", "query", "key", "q_lin", "k_lin", "project_q", "project_k"}


def config_of(name: str, **more: Any) -> Any:
    """The small configuration of a family."""
    kind = CONFIG_MAPPING[name]
    return kind(**_arguments(kind, {**_PER_FAMILY.get(name, {}), **more}))


def _arguments(kind: Any, special: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in SMALL.items() if key in kind.__dataclass_fields__}
    given |= deepcopy(dict(special))
    for part, of in kind.sub_configs.items():
        inner = given.get(part, {})
        if inner is None:
            continue
        if of.__name__ == "AutoConfig":
            spec = kind.sub_configs_defaults[part]
            of = CONFIG_MAPPING[inner.get("model_type", spec.model_type)]
        given[part] = {"model_type": of.model_type, **_arguments(of, inner)}
    return given


def build(name: str, *, seed: int = 0, **more: Any) -> Any:
    """A random model of a family, in evaluation mode."""
    return _model(config_of(name, **more), seed)


def _model(config: Any, seed: int, kind: Any = AutoModelForCausalLM, **how: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config, **how)
        spread(model)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Draw the weights anew, so that states of different tokens are far apart.

    Biases and gates that a family starts at zero get small numbers. Norms turn the sign of half
    their channels: otherwise a head that is tied to the embedding repeats the token it just read.
    Tables of sines stay as they are.
    """
    for path, module in model.named_modules():
        kind = type(module).__name__
        if "Sinusoidal" in kind:
            continue
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                weight.normal_(0, 0.2)
            elif name == "weight" and "Norm" in kind and weight.unique().numel() == 1:
                # Some norms multiply by one more than their weight, which then starts at zero.
                signs = torch.randint(0, 2, weight.shape) * 2 - 1
                weight.copy_(weight - 1 + signs * torch.empty(weight.shape).uniform_(0.5, 1.5))
            elif not weight.any():
                weight.normal_(0, 0.1)
            elif isinstance(module, nn.Linear | nn.Conv1d) and weight.dim() > 1:
                gain = 2.0 if path.rpartition(".")[2] in _SHARP else 1.0
                weight.normal_(0, gain / math.sqrt(weight[0].numel()))
            elif weight.dim() > 1 and weight.std() < 0.05:
                # Experts and routers, whose layouts differ: rows may be what comes in or goes out.
                weight.normal_(0, 1 / math.sqrt(sum(weight.shape[-2:]) / 2))
    model.tie_weights()


def build_more(name: str, seed: int = 0) -> Any:
    """A random model of `MORE` or `REFUSED_KINDS`, in evaluation mode."""
    return {**MORE, **REFUSED_KINDS}[name](seed)


def _family(name: str, **more: Any) -> Callable[[int], Any]:
    return lambda seed=0: build(name, seed=seed, **more)


def _rotating(kind: str, **rope: Any) -> Callable[[int], Any]:
    return _family("llama", rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **rope})


def _seeing(name: str) -> Callable[[int], Any]:
    return lambda seed=0: _model(config_of(name), seed, AutoModelForImageTextToText)


def _translating(name: str) -> Callable[[int], Any]:
    # Its decoder is one, the whole is not.
    config = config_of(name, is_decoder=False, decoder_start_token_id=1)
    return lambda seed=0: _model(config, seed, AutoModelForSeq2SeqLM)


def _adapted(seed: int = 0) -> Any:
    """A Llama with two adapters that both change what it says; "one" is active."""
    from peft import LoraConfig, get_peft_model

    def adapter() -> LoraConfig:
        return LoraConfig(
            r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
        )

    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks for an attribute that transformers is about to drop.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed + 1)
        model = get_peft_model(build("llama", seed=seed), adapter(), adapter_name="one")
        model.add_adapter("two", adapter())
        for path, weight in model.named_parameters():
            if "lora_" in path:
                weight.data.normal_(0, 0.5)
    model.set_adapter("one")
    return model.eval().requires_grad_(False)


_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.0, 2.0, 4.0, 6.0],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}

MORE: dict[str, Callable[[int], Any]] = {
    "rope-linear": _rotating("linear", factor=4.0),
    # Frequencies change once a text is longer than this.
    "rope-dynamic": _family(
        "llama",
        max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "rope-yarn": _family("llama", rope_parameters=YARN),
    "rope-llama3": _family("llama", rope_parameters=LLAMA3),
    "rope-proportional": _rotating("proportional", partial_rotary_factor=0.5),
    "rope-longrope": _family(
        "phi3", original_max_position_embeddings=64, rope_parameters=_LONGROPE
    ),
    "rope-longrope-llama": _family("llama", rope_parameters=_LONGROPE),
    "multi-query-falcon": _family("falcon", multi_query=True),
    "multi-query-llama": _family("llama", num_key_value_heads=1),
    "grouped-falcon": _family("falcon", new_decoder_architecture=True, num_kv_heads=2),
    "alibi-falcon": _family("falcon", alibi=True, multi_query=False),
    "gemma3-vl": _seeing("gemma3"),
    "qwen2_5_vl": _seeing("qwen2_5_vl"),
    "llava": _seeing("llava"),
    "lora": _adapted,
}

REFUSED_KINDS: dict[str, Callable[[int], Any]] = {
    "t5": _translating("t5"),
    "bart-seq2seq": _translating("bart"),
}
