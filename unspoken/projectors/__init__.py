"""Trained modules between the spaces of two models."""

from unspoken.projectors.base import Projector
from unspoken.projectors.embedding import EmbeddingProjector
from unspoken.projectors.free import FreeVectors

__all__ = ["EmbeddingProjector", "FreeVectors", "Projector"]
