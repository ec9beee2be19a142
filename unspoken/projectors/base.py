"""What every trained module shares: safetensors and JSON on disk, loaded strictly."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

__all__ = ["Projector"]


class Projector(
    nn.Module, PyTorchModelHubMixin, library_name="unspoken", tags=["unspoken", "projector"]
):
    """A module with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Settings are the keyword arguments of the constructor, kept in config.json. Weights are
    float32 master weights in model.safetensors. A missing or surplus tensor is an error.
    """

    recipe: ClassVar[str] = ""
    """The recipe that makes one for two models, as errors name it: `recipes/ridge.yaml`."""

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load from a folder or from the hub, strictly, and draw none of torch's random numbers."""
        options.setdefault("strict", True)
        quiet = redirect_stdout(StringIO())  # the mixin prints where it loads from
        with quiet, torch.random.fork_rng(devices=()):
            return super().from_pretrained(name, **options)
