"""Modules between the spaces of two models."""

from unspoken.projectors.base import Projector
from unspoken.projectors.embedding import EmbeddingProjector
from unspoken.projectors.free import FreeVectors
from unspoken.projectors.fuser import Fuser
from unspoken.projectors.linear import LinearMap, VocabularyMixing
from unspoken.projectors.load import load_projector, load_trained
from unspoken.projectors.memory import MemoryProjector, ReadByBoth
from unspoken.projectors.states import StateProjector

__all__ = [
    "EmbeddingProjector",
    "FreeVectors",
    "Fuser",
    "LinearMap",
    "MemoryProjector",
    "Projector",
    "ReadByBoth",
    "StateProjector",
    "VocabularyMixing",
    "load_projector",
    "load_trained",
]
