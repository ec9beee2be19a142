"""Loading a causal model and its tokenizer as transformers does, and saying what goes wrong."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from unspoken import models
from unspoken.backbone.precision import multiplies_bfloat16
from unspoken.errors import IncompatibleModels

__all__ = ["load_causal", "placed", "settings_of", "shared"]

_SHARED = (
    *("revision", "subfolder", "token", "trust_remote_code", "cache_dir", "local_files_only"),
    *("force_download", "proxies"),
)


def shared(hf: dict[str, Any]) -> dict[str, Any]:
    """Of the options for loading a model those that its tokenizer and configuration need too."""
    return {name: hf[name] for name in _SHARED if name in hf}


def settings_of(where: str, **hf: Any) -> dict[str, Any]:
    """The configuration of a folder, or of a name on the hub, as it was written."""
    return PretrainedConfig.get_config_dict(where, **hf)[0]


def load_causal(
    name: str, dtype: str | torch.dtype, device: str | None, hf: dict[str, Any]
) -> tuple[Any, Any]:
    """A causal model of transformers, on its device, and its tokenizer.

    Raises `UnknownName`, `MissingExtra`, and `IncompatibleModels` for an encoder-decoder and for a
    checkpoint without the weights of a causal model.
    """
    where, common = models.resolve(name), shared(hf)
    with models.explained(name):
        if settings_of(where, **common).get("is_encoder_decoder"):
            raise IncompatibleModels(
                f"{name!r} is an encoder-decoder: it writes from an encoded text, not on from it. "
                "Use a causal model"
            )
        tokenizer = models.load_tokenizer(name, where, **common)
        auto: Any = AutoModelForCausalLM
        model, told = auto.from_pretrained(where, dtype=dtype, output_loading_info=True, **hf)
    if missing := sorted(told["missing_keys"]):
        raise IncompatibleModels(
            f"{name!r} was saved without {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}, which a causal model needs: they would "
            "be drawn at random. Use a checkpoint that was trained as a causal model"
        )
    return placed(model, dtype, device), tokenizer


def placed(model: Any, dtype: str | torch.dtype, device: str | None) -> Any:
    """The model, frozen, on its device, in a precision that the device computes in.

    What is quantised, or was spread over devices by a `device_map`, stays where it is.
    """
    model.eval().requires_grad_(False)
    spread = getattr(model, "hf_device_map", None) is not None
    if spread or getattr(model, "is_quantized", False):
        return model
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    half = model.dtype in (torch.bfloat16, torch.float16)
    if dtype == "auto" and half and not multiplies_bfloat16(chosen):
        warnings.warn(
            f"this {chosen.type} does not multiply {str(model.dtype).removeprefix('torch.')} in "
            "hardware, so the model is used in float32, in twice the memory; dtype= says otherwise",
            stacklevel=4,
        )
        model = model.float()
    return model.to(chosen)
