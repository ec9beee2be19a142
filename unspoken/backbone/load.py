"""Any model by its name: a causal one, or one that writes by diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unspoken import models
from unspoken.backbone.core import Backbone
from unspoken.backbone.diffusion import DiffusionBackbone, DiffusionGemma
from unspoken.backbone.diffusion.layouts import FILE
from unspoken.backbone.diffusion.published import model_type, published
from unspoken.backbone.loaded import shared
from unspoken.backbone.model import LanguageModel

__all__ = ["kind_of", "load_model"]


def load_model(
    name: str, *, dtype: str | torch.dtype = "auto", device: str | None = None, **hf: Any
) -> LanguageModel:
    """Load a model as causal or diffusion, as its folder or its configuration on the hub says.

    A folder with a diffusion.json, LLaDA, Dream and DiffusionGemma write by diffusion. Any other
    model is causal. To use a causal one for diffusion, call `DiffusionBackbone.from_pretrained`.
    """
    kind = kind_of(name, **hf)
    return kind.from_pretrained(name, dtype=dtype, device=device, **hf)


def kind_of(name: str, **hf: Any) -> Any:
    """The class that `load_model` loads a model as."""
    where, common = models.resolve(name), shared(hf)
    if model_type(where, **common) == "diffusion_gemma":
        return DiffusionGemma
    if (Path(where) / FILE).is_file() or published(where, **common) is not None:
        return DiffusionBackbone
    return Backbone
