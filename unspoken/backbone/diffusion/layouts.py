"""What a masked-diffusion checkpoint is besides its weights: data, so a new one needs no code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from unspoken.errors import DataError
from unspoken.files import write_text

__all__ = ["DREAM", "FILE", "LLADA", "Masked"]

FILE = "diffusion.json"
"""The file in a model's folder, beside its config.json."""


@dataclass(frozen=True, slots=True)
class Masked:
    """How a model is used for masked diffusion.

    mask: the token id of a position that is not written yet. shift: whether the logits of a
    position are for the next one, as in models that began as causal ones. ends: token ids that end
    what is written, () for those of the model. behind: ids that follow the canvas ([SEP]).
    before: ids in front of the prompt; None for the tokenizer's `<bos>`, if it has one. head:
    transformers' class of model, `causal` or `masked`. Every model attends in both directions.
    """

    mask: int
    shift: bool = False
    ends: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    before: tuple[int, ...] | None = None
    head: Literal["causal", "masked"] = "causal"

    def save(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Masked:
        """Raises `DataError` if there is no such file, or if it is not a valid `Masked`."""
        path = folder / FILE
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for name in ("ends", "behind", "before"):
                if settings.get(name) is not None:
                    settings[name] = tuple(settings[name])
            return cls(**settings)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} does not say how a model is used for diffusion ({error}). It should look "
                f"like {json.dumps(asdict(cls(mask=16, shift=True)))}"
            ) from error


LLADA = Masked(mask=126336, ends=(126081, 126348))
"""LLaDA 8B, base and instruct (arXiv 2502.09992): a Llama that was never causal."""

DREAM = Masked(mask=151666, shift=True, ends=(151643, 151645))
"""Dream 7B, base and instruct (arXiv 2508.15487): began as Qwen2.5, so its logits are shifted."""
