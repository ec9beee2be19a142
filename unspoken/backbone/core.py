"""A causal language model of transformers with a KV cache, and its tokenizer.

Everything that depends on the version of transformers lives in this package (and in the conversion
of packaged weights, `models.py`, and the test doubles, `testing.py`).
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import Any

import torch

from unspoken.backbone.filling import Filling
from unspoken.backbone.loaded import load_causal
from unspoken.backbone.model import LanguageModel
from unspoken.backbone.offline import Offline
from unspoken.backbone.scoring import Scoring
from unspoken.errors import IncompatibleModels

__all__ = ["Backbone", "causal"]


class Backbone(Offline, Filling, Scoring):
    """A causal language model, frozen, and its tokenizer.

    Where its layers keep keys and values, it has all abilities. Any other model, such as a hybrid
    one, reads and writes words, see `Rereading`. `spec` says what it gives and takes.

    >>> from unspoken.testing import tiny_backbone
    >>> from unspoken.types import Prompt, Settings, Text
    >>> model = tiny_backbone("llama")
    >>> context = model.read(Prompt((Text(("two plus two is",)),))).context
    >>> model.write(context, Settings(max_tokens=4)).passes
    4
    """

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: str | torch.dtype = "auto", device: str | None = None, **hf: Any
    ) -> Backbone:
        """Load a packaged model by its short name, a local folder or a Hugging Face name.

        `hf` goes to transformers' `from_pretrained` as it is: `revision`, `subfolder`, `token` and
        `trust_remote_code` for the model and its tokenizer, `device_map` and `quantization_config`
        for the model alone. dtype: "auto" is that of the checkpoint, or float32 where the device
        does not multiply it in hardware. Raises `UnknownName` when there is nothing by that name,
        `MissingExtra` when the package of a known name is not installed, `IncompatibleModels` for
        what is no causal model.
        """
        model, tokenizer = load_causal(name, dtype, device, hf)
        return cls(model, tokenizer, name=name)


def causal(model: LanguageModel, what: str) -> Backbone:
    """The model as a causal one, whose cache `what` needs. Raises `IncompatibleModels`."""
    if not isinstance(model, Backbone):
        raise IncompatibleModels(
            f"{what} a cache, and {model.name!r} keeps none; use a causal model in its place"
        )
    return model
