"""What every language model has: an identity, words and token ids."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.identity import Identity, tensors_of
from unspoken.backbone.inner import longest, setting, text_config
from unspoken.backbone.once import Locked, once
from unspoken.backbone.templates import ChatTemplate, ControlTokens
from unspoken.backbone.thoughts import Thoughts, thoughts_of
from unspoken.errors import ContextTooLong, UnreadableWords
from unspoken.finite import all_finite, no_words, not_finite
from unspoken.identity import fingerprint, plain_parts
from unspoken.types import (
    TEXT,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Settings,
    Spec,
    Words,
)

__all__ = ["LanguageModel"]


class LanguageModel(Locked, ABC):
    """A model and its tokenizer, frozen. Subclasses say how it reads and writes.

    A `Backbone` is causal and has a cache, a `DiffusionBackbone` has none.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__()
        if model.training or any(one.requires_grad for one in model.parameters()):
            warnings.warn(
                f"{name!r} is now in evaluation mode and its weights take no gradients; to train "
                "it again, call model.train().requires_grad_(). To be spared this, pass in "
                "model.eval().requires_grad_(False)",
                stacklevel=3,
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self._identity = Identity(self.model)

    # -- the verbs ---------------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """Shapes, identity and abilities, which `Channel.check` compares.

        If the weights, the adapter or the configuration have changed since, it is made anew.
        """
        with self.lock:
            if self._identity.changed():
                self._forget()
            return self.facts

    @once
    def facts(self) -> Spec:
        """What `spec` said last."""
        return self._describe()

    def _forget(self) -> None:
        """Forget what was found out about the model as it was before."""
        for kind in type(self).__mro__:
            for name, value in vars(kind).items():
                if isinstance(value, cached_property) and name in self.__dict__:
                    delattr(self, name)

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
        on_text: OnText | None = None,
    ) -> Words:
        """Go on from a context with words."""

    @abstractmethod
    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """How unlikely each row's answer is (B,), in nats. Differentiable."""

    # -- identity ----------------------------------------------------------------------------------

    def _spec(self) -> Spec:
        """What the configuration says of any model."""
        model = self.model
        width = setting(model, "hidden_size", model.get_input_embeddings().weight.shape[1])
        heads = setting(model, "num_attention_heads", 1)
        return Spec(
            name=self.name,
            width=width,
            layers=setting(model, "num_hidden_layers", 1),
            kv_heads=setting(model, "num_key_value_heads", heads),
            head_dim=setting(model, "head_dim", width // heads),
            weights=str(self._identity),
            former=self._former,
            tokenizer=hashlib.sha256(
                repr(sorted(self.tokenizer.get_vocab().items())).encode()
            ).hexdigest()[:16],
            positions=longest(text_config(model)),
            dtype=str(self.dtype).removeprefix("torch."),
            chats=bool(self.template.source),
        )

    @property
    def _former(self) -> str:
        """The fingerprint of version 0.1, '' where it could not be taken."""
        parameters = dict(self.model.named_parameters())
        offloaded = any(one.is_meta for one in parameters.values())
        return "" if offloaded else fingerprint(parameters.items())

    @property
    def fingerprint(self) -> str:
        """Identity of the model: 16 hex digits over all that changes a forward pass.

        These are some 1024 numbers of every parameter and buffer, of adapters only those that are
        active, and the settings of rotation, norms, windows, scales and layers. It is the same for
        the same model in another folder, and different for another fine-tune. Numbers are compared
        in bfloat16, so that a copy in bfloat16 counts as the same weights. `Spec.dtype` tells the
        two apart. A few changed numbers, or changes far below the precision of bfloat16, can go
        unnoticed. `digest` looks at every byte. What is noticed later: see `Identity`.
        """
        return self.spec.weights

    def digest(self) -> str:
        """SHA-256 over every byte of every weight: shows that training left them alone."""
        found = hashlib.sha256()
        for name, tensor in sorted(tensors_of(self.model), key=lambda pair: pair[0]):
            found.update(name.encode())
            for part in plain_parts(tensor):
                data = part.to("cpu").contiguous().flatten().view(torch.uint8)
                found.update(data.numpy().tobytes())
        return found.hexdigest()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def _check_words(self, logits: Tensor) -> None:
        """Raise `NotFinite` unless logits (..., V) all have a likeliest word."""
        if bool(no_words(logits).any()):
            raise not_finite(*self._who)

    def _check_numbers(self, *found: Tensor) -> None:
        """Raise `NotFinite` if what the model computed is NaN or infinite."""
        if not all_finite(found):
            raise not_finite(*self._who)

    @property
    def _who(self) -> tuple[str, str]:
        """Whom an error names, and what the model computes in."""
        return f"model {self.name!r}", str(self.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """How the model computes attention, by transformers' name: sdpa, eager, ..."""
        return str(self.model.config._attn_implementation)

    # -- words and ids -----------------------------------------------------------------------------

    @once
    def template(self) -> ChatTemplate:
        """The chat template of the tokenizer."""
        return ChatTemplate(self.tokenizer, self.name)

    @once
    def thoughts(self) -> Thoughts | None:
        """The marks around thoughts, None for a model whose chat template has none."""
        return thoughts_of(self.tokenizer, self.template.source)

    @once
    def _controls(self) -> ControlTokens:
        return ControlTokens(self.tokenizer, self.template.source)

    def chat(
        self,
        system: str,
        user: str,
        *,
        past: Sequence[tuple[str, str]] = (),
        now: datetime | None = None,
        **options: Any,
    ) -> str:
        """Render a user's turn, open for the assistant, with the model's own chat template.

        A template without a system turn gets its words before the user's. past: earlier turns, the
        user's words and the assistant's. now: the date, if it writes one. options: what it is told
        besides, such as enable_thinking. Raises `TemplateError` and `UnknownName`.
        """
        return self.template.render(system, user, options, past, now)

    def tokens(self, words: str) -> list[int]:
        """Token ids of `words` alone, without special tokens around them."""
        return self.encode(words)[0]

    def encode(
        self, words: str, frames: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids of `words`, and where each token ends in them, in characters.

        The ends are -1 when the tokenizer cannot tell, as one written in Python cannot. frames:
        where control tokens count, as (begin, end) in characters, and anywhere if it is None. In
        other places they are spelled. Raises `UnreadableWords`.
        """
        if frames is not None and len(words) > (self._most_letters or len(words)):
            raise ContextTooLong(
                f"{len(words):,} characters are given, but {self.name!r} reads at most "
                f"{longest(text_config(self.model)):,} positions, of {self._longest_token} "
                "characters at most. Shorten the prompt or choose a model with a longer context"
            )
        fast: bool = self.tokenizer.is_fast
        try:
            found = self.tokenizer(words, add_special_tokens=False, return_offsets_mapping=fast)
        except (TypeError, UnicodeEncodeError) as error:
            raise UnreadableWords(
                f"the words are no valid Unicode: {error}. Take out lone surrogates, as "
                "words.encode(errors='replace').decode() does"
            ) from error
        ids: list[int] = found["input_ids"]
        spans: list[tuple[int, int]] | None = found["offset_mapping"] if fast else None
        if frames is not None:
            spelled = self._controls.spelled(words, ids, spans, frames)
            if spelled is not None:
                return spelled
        return ids, [-1] * len(ids) if spans is None else [end for _, end in spans]

    @once
    def _longest_token(self) -> int:
        """The most characters of a token."""
        return max(map(len, self.tokenizer.get_vocab()))

    @once
    def _most_letters(self) -> int | None:
        """Longer words fill more positions than there are. Counting their tokens takes long."""
        positions = longest(text_config(self.model))
        return None if positions is None else positions * self._longest_token

    def shorten(self, words: str, limit: int) -> str:
        """The words of the first `limit` tokens."""
        ids = self.tokens(words)
        return words if len(ids) <= limit else self.tokenizer.decode(ids[:limit])

    @property
    def table(self) -> Tensor:
        """(V, W) float32: the input embedding of every token."""
        return self._known_table

    @once
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
        return getattr(text_config(self.model), "final_logit_softcapping", None)

    @once
    def _bos(self) -> list[int]:
        ids = self.tokenizer("")["input_ids"]
        return ids[:1] if ids and ids[0] == self.tokenizer.bos_token_id else []
