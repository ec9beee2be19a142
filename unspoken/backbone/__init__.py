"""A language model and its tokenizer behind four verbs: read, write, score, shift."""

from unspoken.backbone.core import Backbone, Reader
from unspoken.backbone.generation import Ahead

__all__ = ["Ahead", "Backbone", "Reader"]
