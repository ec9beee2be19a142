"""A language model and its tokenizer behind four verbs: read, write, score, shift."""

from unspoken.backbone.attention import few_tokens
from unspoken.backbone.core import Backbone, causal
from unspoken.backbone.diffusion import DiffusionBackbone, DiffusionGemma, Masked
from unspoken.backbone.generation import Ahead
from unspoken.backbone.load import load_model
from unspoken.backbone.model import LanguageModel, Reader

__all__ = [
    "Ahead",
    "Backbone",
    "DiffusionBackbone",
    "DiffusionGemma",
    "LanguageModel",
    "Masked",
    "Reader",
    "causal",
    "few_tokens",
    "load_model",
]
