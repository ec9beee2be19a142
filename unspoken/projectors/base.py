"""What every trained module shares: safetensors and JSON on disk, loaded strictly."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import nn

__all__ = ["Projector"]


class Projector(
    nn.Module, PyTorchModelHubMixin, library_name="unspoken", tags=["unspoken", "projector"]
):
    """A module with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Settings are the keyword arguments of the constructor, kept in config.json; weights are
    float32 master weights in model.safetensors. A missing or surplus tensor is an error.
    """

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load from a folder or from the hub, strictly."""
        options.setdefault("strict", True)
        with redirect_stdout(StringIO()):  # the mixin prints where it loads from
            return super().from_pretrained(name, **options)
