"""What every trained module shares: safetensors and JSON on disk, loaded strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from unspoken.files import write_bytes
from unspoken.seeding import seeded

__all__ = ["WHERE", "Projector"]


class Projector(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="unspoken",
    tags=["unspoken", "projector"],
):
    """A module with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Settings are the keyword arguments of the constructor, kept in config.json. Weights are
    float32 master weights in model.safetensors. A missing or surplus tensor is an error.
    """

    recipe: ClassVar[str] = ""
    """The recipe that makes one for two models, as errors name it: `ridge`."""

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load from a folder or from the hub, strictly."""
        options.setdefault("strict", True)
        return super().from_pretrained(name, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """As the mixin does, with the rights that the umask leaves: safetensors gives less."""
        super()._save_pretrained(save_directory)
        weights = save_directory / _WEIGHTS
        write_bytes(weights, weights.read_bytes())

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = False, **options: Any
    ) -> Self:
        """From a folder as the mixin does, which prints that it does."""
        folder = Path(model_id)
        if not folder.is_dir():
            options |= {"map_location": map_location, "strict": strict}
            return super()._from_pretrained(model_id=model_id, **options)
        with seeded():  # what is drawn now is replaced by what was trained
            made = cls(**{name: value for name, value in options.items() if name not in WHERE})
        return cls._load_as_safetensor(made, str(folder / _WEIGHTS), map_location, strict)


WHERE = ("revision", "cache_dir", "force_download", "token", "local_files_only")
"""Options that say where on the hub something is."""

_WEIGHTS = "model.safetensors"
