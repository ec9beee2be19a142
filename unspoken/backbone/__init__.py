"""Language models of transformers: how they read, write, score and move what they have read."""

from unspoken.backbone.attention import few_tokens
from unspoken.backbone.core import Backbone, causal
from unspoken.backbone.diffusion import DiffusionBackbone, DiffusionGemma, Masked
from unspoken.backbone.load import kind_of, load_model
from unspoken.backbone.model import LanguageModel

__all__ = [
    "Backbone",
    "DiffusionBackbone",
    "DiffusionGemma",
    "LanguageModel",
    "Masked",
    "causal",
    "few_tokens",
    "kind_of",
    "load_model",
]
