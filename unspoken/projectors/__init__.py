"""Trained modules between the spaces of two models."""

from unspoken.projectors.base import Projector
from unspoken.projectors.embedding import EmbeddingProjector
from unspoken.projectors.free import FreeVectors
from unspoken.projectors.fuser import Fuser
from unspoken.projectors.memory import MemoryProjector

__all__ = ["EmbeddingProjector", "FreeVectors", "Fuser", "MemoryProjector", "Projector"]
