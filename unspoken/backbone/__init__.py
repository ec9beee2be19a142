"""A language model and its tokenizer behind four verbs: read, write, score, shift."""

from unspoken.backbone.core import Backbone, Reader

__all__ = ["Backbone", "Reader"]
