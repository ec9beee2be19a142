"""What every language model has: an identity, words and token ids."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unspoken.identity import fingerprint
from unspoken.types import (
    TEXT,
    Context,
    Need,
    Prompt,
    Read,
    Settings,
    Spec,
    Words,
)

__all__ = ["LanguageModel"]


class LanguageModel(ABC):
    """A model and its tokenizer, frozen. Subclasses say how it reads and writes.

    A `Backbone` is causal and has a cache, a `DiffusionBackbone` has none.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name

    # -- the verbs ---------------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """Shapes, identity and abilities, which `Channel.check` compares."""
        return self._known_spec

    @cached_property
    def _known_spec(self) -> Spec:
        return self._describe()

    @abstractmethod
    def _describe(self) -> Spec:
        """What `spec` says, computed once."""

    @abstractmethod
    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt of B rows and compute what is needed."""

    @abstractmethod
    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: Callable[[str], None] | None = None,
    ) -> Words:
        """Go on from a context with words."""

    @abstractmethod
    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """How unlikely each row's answer is (B,), in nats. Differentiable."""

    # -- identity ----------------------------------------------------------------------------------

    def _spec(self, config: Any) -> Spec:
        """What a configuration says of any model."""
        return Spec(
            name=self.name,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            weights=self.fingerprint,
            tokenizer=hashlib.sha256(
                repr(sorted(self.tokenizer.get_vocab().items())).encode()
            ).hexdigest()[:16],
            positions=getattr(config, "max_position_embeddings", None),
            dtype=str(self.dtype).removeprefix("torch."),
            chats=bool(getattr(self.tokenizer, "chat_template", None)),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights: 16 hex digits over some 1024 numbers of every parameter.

        It is the same for the same weights in another folder, and different for another fine-tune,
        whatever the configuration says. Numbers are compared in bfloat16, so that a copy in
        bfloat16 counts as the same weights. `Spec.dtype` tells the two apart. A few changed
        numbers, or changes far below the precision of bfloat16, can go unnoticed. `digest` looks
        at every byte.
        """
        return fingerprint(self.model.named_parameters())

    def digest(self) -> str:
        """SHA-256 over every byte of every parameter: shows that training left them alone."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(name.encode())
            data = parameter.detach().to("cpu").contiguous().flatten().view(torch.uint8)
            digest.update(memoryview(data.numpy()))
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def attention(self) -> str:
        """How the model computes attention, by transformers' name: sdpa, eager, ..."""
        return str(self.model.config._attn_implementation)

    # -- words and ids -----------------------------------------------------------------------------

    def chat(self, system: str, user: str) -> str:
        """Render one user turn, open for the assistant, with the model's own chat template."""
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": user})
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def tokens(self, words: str) -> list[int]:
        """Token ids of `words` alone, without special tokens around them."""
        return self.tokenizer(words, add_special_tokens=False)["input_ids"]

    def encode(self, words: str) -> tuple[list[int], list[int]]:
        """Token ids of `words`, and where each token ends in them, in characters.

        The ends are -1 when the tokenizer cannot tell, as one written in Python cannot.
        """
        if not self.tokenizer.is_fast:
            ids = self.tokens(words)
            return ids, [-1] * len(ids)
        found = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [end for _, end in found["offset_mapping"]]

    def shorten(self, words: str, limit: int) -> str:
        """The words of the first `limit` tokens."""
        ids = self.tokens(words)
        return words if len(ids) <= limit else self.tokenizer.decode(ids[:limit])

    @property
    def table(self) -> Tensor:
        """(V, W) float32: the input embedding of every token."""
        return self._known_table

    @cached_property
    def _known_table(self) -> Tensor:
        rows = self.model.get_input_embeddings().weight.shape[0]
        return self.embed(torch.arange(rows, device=self.device)).float()

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) to input embeddings (..., W), the space of `Vectors`."""
        return self.model.get_input_embeddings()(ids)

    @property
    def head(self) -> Tensor:
        """(V, W): the output embedding of every token."""
        return self.model.get_output_embeddings().weight

    @property
    def logit_cap(self) -> float | None:
        """The bound that the model puts on its logits by a tanh, or None."""
        return getattr(self.model.config, "final_logit_softcapping", None)

    @cached_property
    def _bos(self) -> list[int]:
        ids = self.tokenizer("")["input_ids"]
        return ids[:1] if ids and ids[0] == self.tokenizer.bos_token_id else []
