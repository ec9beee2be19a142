"""A projector of states from its folder, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub

from unspoken.errors import unknown
from unspoken.projectors.embedding import EmbeddingProjector
from unspoken.projectors.linear import LinearMap, VocabularyMixing
from unspoken.projectors.states import StateProjector

__all__ = ["load_state_projector"]

_KINDS: dict[str, type[StateProjector]] = {
    "embedding": EmbeddingProjector,
    "ridge": LinearMap,
    "procrustes": LinearMap,
    "mixing": VocabularyMixing,
}


def load_state_projector(name: str) -> StateProjector:
    """Load from a folder or from the hub; its config.json names its kind, or none if trained."""
    path = Path(name) / "config.json"
    if not path.parent.is_dir():
        path = Path(huggingface_hub.hf_hub_download(name, "config.json"))
    kind = "embedding"
    if path.exists():
        kind = str(json.loads(path.read_text(encoding="utf-8")).get("kind", kind))
    if kind not in _KINDS:
        raise unknown("kind of projector", kind, _KINDS)
    return _KINDS[kind].from_pretrained(name).eval()
