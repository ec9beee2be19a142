"""What is inside a model of transformers: its language side, its decoder, its end tokens."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any

import torch
from transformers import PreTrainedModel

from unspoken.errors import IncompatibleModels

__all__ = [
    "border",
    "decoder_of",
    "end_tokens",
    "longest",
    "opened",
    "setting",
    "text_config",
    "turns_alone",
]


def opened(model: Any, name: str) -> Any:
    """The model of transformers inside a wrapper of peft, whose layers hold the adapters.

    Raises `IncompatibleModels` for what is no causal language model.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        prompts = [one for one in model.peft_config.values() if one.is_prompt_learning]
        if prompts:
            raise IncompatibleModels(
                f"the adapter of {name!r} puts vectors in front of every prompt "
                f"({prompts[0].peft_type.value}), which looks like a message here. Use an "
                "adapter of weights, such as LoRA, or the base model"
            )
        model = model.get_base_model()
    if model.config.is_encoder_decoder:
        raise IncompatibleModels(
            f"{name!r} is an encoder-decoder ({type(model).__name__}): it writes from an encoded "
            "text, not on from it. Use a causal model"
        )
    return model


def text_config(model: Any) -> Any:
    """The configuration of the language side."""
    return model.config.get_text_config(decoder=True)


def setting(model: Any, name: str, default: Any) -> Any:
    """A setting of the configuration that holds for every layer, or the default."""
    try:
        found = getattr(text_config(model), name, None)
    except Exception:  # transformers raises one of its own where layers differ
        found = None
    return default if found is None else found


def decoder_of(model: Any) -> Any:
    """The language side without its head."""
    found = model.get_decoder()  # by the name of an attribute, which may be another thing
    return found if isinstance(found, PreTrainedModel) else model.base_model


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer, by the checkpoint or by the tokenizer.

    Of a checkpoint's settings for `generate` nothing else is part of an answer.
    """
    generation = getattr(model, "generation_config", None)
    told = (
        getattr(generation, "eos_token_id", None),
        getattr(text_config(model), "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    ends = {end for one in told for end in (one if isinstance(one, list) else [one])}
    return tuple(sorted(end for end in ends if end is not None))


def border(config: Any) -> int | None:
    """The length beyond which all keys turn otherwise, None for a model whose keys never do.

    That is so with `longrope` and `dynamic` scaling. What was read before the border does not fit
    what is read beyond it.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("longrope", "dynamic"):
        return None
    original = getattr(config, "original_max_position_embeddings", None)
    first = rope.get("original_max_position_embeddings") or original
    return first or config.max_position_embeddings


_turning = RLock()


def turns_alone(body: Any) -> None:
    """Let rotations that follow the length of a text be made by one thread at a time.

    A `longrope` or `dynamic` module writes the frequencies of a text into itself before it uses
    them, and keeps those of the longest text so far. Here it forgets that one.
    """
    for module in body.modules():
        known = getattr(vars(module).get("forward"), "func", None) is _turn
        if not known and any(kind in _kinds(module) for kind in ("dynamic", "longrope")):
            module.forward = partial(_turn, module, module.forward)


def _kinds(module: Any) -> str:
    """The rotary scaling of a module, or of all its kinds of layers, in words."""
    return str(getattr(module, "rope_type", ""))


def _turn(
    module: Any, forward: Callable[..., Any], x: Any, position_ids: Any, *more: Any, **named: Any
) -> Any:
    with _turning:
        if "dynamic" in _kinds(module):
            forward(x, torch.zeros_like(position_ids), *more, **named)
        return forward(x, position_ids, *more, **named)


_STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary scaling by whose factor a model reads further than its configuration says."""


def longest(config: Any) -> int | None:
    """How many positions a model reads, with its rotary scaling; None if there is no bound."""
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if limit is None or limit < 1:  # XLNet says -1
        return None
    if rope.get("rope_type") not in _STRETCHED:
        return limit
    original = rope.get("original_max_position_embeddings") or limit
    return max(limit, int(original * rope.get("factor", 1)))
