"""Folders as version 0.1 and other people leave them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from unspoken.projectors.base import WEIGHTS

__all__ = ["without_digest"]


def without_digest(folder: Path) -> Path:
    """The folder of a projector, its content as it is. Returns the file of its weights."""
    config = json.loads((folder / "config.json").read_text())
    del config[WEIGHTS]
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt"})
    return path
