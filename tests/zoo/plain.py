"""What is right: one model driven by plain transformers, and nothing of unspoken.

Whatever plain transformers cannot do itself raises `NoJudge`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache, GenerationConfig

__all__ = ["NoJudge", "Pairs", "Plain", "join"]

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (1, H, S, D)."""

P = ParamSpec("P")
R = TypeVar("R")


class NoJudge(Exception):
    """Plain transformers cannot do this with this model."""


def _judged(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with torch.no_grad():
                return function(*args, **kwargs)
        except Exception as error:
            raise NoJudge(f"{function.__name__}: {type(error).__name__}: {error}") from error

    return asked


def join(*caches: Pairs) -> Pairs:
    """Caches one after the other."""
    return [
        (torch.cat([k for k, _ in layer], 2), torch.cat([v for _, v in layer], 2))
        for layer in zip(*caches, strict=True)
    ]


class Plain:
    """A second copy of the model. What it computed once for some tokens is kept."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._known: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], make: Callable[[], R]) -> R:
        if key not in self._known:
            for module in self.model.modules():
                if "dynamic" in str(getattr(module, "rope_type", "")):  # as before any long text
                    module.inv_freq = module.original_inv_freq
                    module.max_seq_len_cached = module.original_max_seq_len
            self._known[key] = make()
        return self._known[key]

    @_judged
    def logits(self, ids: Sequence[int]) -> Tensor:
        """(S, V): logits after every token, in one pass without a cache."""

        def pass_over() -> Tensor:
            tokens = torch.tensor([ids])
            out = self.model(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
            )
            return out.logits[0].float()

        return self._once(("logits", *ids), pass_over)

    @_judged
    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """What greedy decoding writes after these tokens, the end token included."""

        def write() -> list[int]:
            tokens = torch.tensor([ids])
            config = GenerationConfig(
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=self.model.generation_config.eos_token_id,
                pad_token_id=0,
            )
            out = self.model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=config
            )
            return out[0, len(ids) :].tolist()

        return self._once(("generate", count, *ids), write)

    @_judged
    def likeliest(self, ids: Sequence[int], count: int) -> list[int]:
        """What greedy decoding writes without a cache and without rules of its own."""
        found: list[int] = []
        while len(found) < count and (not found or found[-1] not in self.ends):
            found.append(int(self.logits([*ids, *found])[-1].argmax()))
        return found

    @property
    def ends(self) -> list[int]:
        """The tokens that end what is written."""
        ends = self.model.generation_config.eos_token_id
        return [] if ends is None else torch.tensor([ends]).flatten().tolist()

    @_judged
    def states(self, ids: Sequence[int]) -> list[Tensor]:
        """The hidden states (S, W) of the embeddings and of all layers."""

        def pass_over() -> list[Tensor]:
            tokens = torch.tensor([ids])
            out = self.model(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                use_cache=False,
                output_hidden_states=True,
            )
            return [states[0].float() for states in out.hidden_states]

        return self._once(("states", *ids), pass_over)

    @_judged
    def embed(self, ids: Sequence[int]) -> Tensor:
        """(S, W): input embeddings."""
        return self.model.get_input_embeddings()(torch.tensor(list(ids)))

    @_judged
    def logits_of(self, embedded: Tensor) -> Tensor:
        """(S, V): logits after every input embedding (S, W)."""
        mask = torch.ones(1, len(embedded), dtype=torch.long)
        out = self.model(inputs_embeds=embedded[None].clone(), attention_mask=mask, use_cache=False)
        return out.logits[0].float()

    @_judged
    def last_state_of(self, embedded: Tensor) -> Tensor:
        """(W,): the last hidden state, after the final norm, of input embeddings (S, W)."""
        mask = torch.ones(1, len(embedded), dtype=torch.long)
        body = self.model.base_model
        out = body(inputs_embeds=embedded[None].clone(), attention_mask=mask, use_cache=False)
        return out.last_hidden_state[0, -1].float()

    @_judged
    def fed_back(self, ids: Sequence[int], steps: int) -> Tensor:
        """(S + m, W): tokens embedded, and m last states, each at an embedding's mean norm."""
        return self._once(("fed back", steps, *ids), lambda: self._fed_back(ids, steps))

    def _fed_back(self, ids: Sequence[int], steps: int) -> Tensor:
        fed, norm = self.embed(ids), self.table().norm(dim=1).mean()
        for _ in range(steps):
            state = self.last_state_of(fed)
            fed = torch.cat((fed, (state * norm / state.norm())[None]))
        return fed

    @_judged
    def expected(self, ids: Sequence[int], limit: int, temperature: float) -> Tensor:
        """(m, W): mean embeddings under the next token, until that is most likely an end."""
        return self._once(
            ("expected", limit, *ids), lambda: self._expected(ids, limit, temperature)
        )

    def _expected(self, ids: Sequence[int], limit: int, temperature: float) -> Tensor:
        fed, table = self.embed(ids), self.table()
        for _ in range(limit):
            logits = self.logits_of(fed)[-1]
            if int(logits.argmax()) in self.ends:
                break
            fed = torch.cat((fed, (torch.softmax(logits / temperature, -1) @ table)[None]))
        return fed[len(ids) :]

    def table(self) -> Tensor:
        """(V, W): the input embedding of every token."""
        return self.embed(range(len(self.model.get_input_embeddings().weight)))

    # -- caches that are put together by hand ------------------------------------------------------

    @_judged
    def read(self, ids: Sequence[int], begin: int = 0) -> Pairs:
        """The cache of some tokens, read alone at positions from `begin` on."""
        cache = DynamicCache()
        self._pass(cache, ids, begin)
        pairs = [(layer.keys, layer.values) for layer in cache.layers]
        if any(keys is None for keys, _ in pairs):
            raise ValueError("some layers keep nothing of what is read")
        return pairs

    @_judged
    def after(self, pairs: Pairs, ids: Sequence[int], begin: int) -> Tensor:
        """(N, V): logits after tokens that are read from position `begin` on, after a cache."""
        cache = DynamicCache()
        for n, (keys, values) in enumerate(pairs):
            cache.update(keys, values, n)
        return self._pass(cache, ids, begin)

    @_judged
    def after_some(
        self, pairs: Pairs, ids: Sequence[int], begin: int, hidden: slice, layers: Collection[int]
    ) -> Tensor:
        """`after`, where some layers do not see the slots `hidden` of the cache."""
        size = pairs[0][0].shape[2] + len(ids)
        with _Hidden(size, hidden, ()) as counting:
            self.after(pairs, ids, begin)
        times, rest = divmod(counting.calls, len(pairs))
        if rest or not times:
            raise ValueError(f"it attends {counting.calls} times in {len(pairs)} layers")
        calls = [layer * times + n for layer in layers for n in range(times)]
        with _Hidden(size, hidden, calls):
            return self.after(pairs, ids, begin)

    def _pass(self, cache: DynamicCache, ids: Sequence[int], begin: int) -> Tensor:
        tokens, known = torch.tensor([ids]), cache.get_seq_length()
        out = self.model(
            input_ids=tokens,
            attention_mask=torch.ones(1, known + len(ids), dtype=torch.long),
            position_ids=torch.arange(begin, begin + len(ids))[None],
            past_key_values=cache,
            use_cache=True,
        )
        if len(cache.layers) == 0 or cache.get_seq_length() != known + len(ids):
            raise ValueError("it does not keep what it reads in a DynamicCache")
        return out.logits[0].float()


class _Hidden(TorchFunctionMode):
    """While it is on, some calls of attention do not see some slots of a cache of `size` slots.

    Attention is `scaled_dot_product_attention`, or a `softmax` over all slots and perhaps a sink.
    """

    def __init__(self, size: int, slots: slice, blind: Collection[int]) -> None:
        super().__init__()
        self.size, self.blind, self.calls = size, blind, 0
        self.seen = torch.ones(size + 1, dtype=torch.bool)
        self.seen[slots] = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is scaled_dot_product_attention and args[1].shape[-2] == self.size:
            if self._next():
                rows = args[0].shape[-2]
                kwargs["attn_mask"] = self._mask(rows, kwargs.get("attn_mask"))
                kwargs["is_causal"] = False
        elif func in _SOFTMAX and args[0].ndim > 2 and args[0].shape[-1] - self.size in (0, 1):
            scores, blind = args[0], self._next()
            unseen = ~self.seen[: scores.shape[-1]] & blind
            args = (scores.masked_fill(unseen, torch.finfo(scores.dtype).min), *args[1:])
        return func(*args, **kwargs)

    def _next(self) -> bool:
        """Whether the call of attention that comes now is one of those."""
        self.calls += 1
        return self.calls - 1 in self.blind

    def _mask(self, rows: int, mask: Tensor | None) -> Tensor:
        seen = self.seen[: self.size]
        if mask is None:
            return torch.ones(rows, self.size).bool().tril(self.size - rows) & seen
        if mask.dtype == torch.bool:
            return mask & seen
        return mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


_SOFTMAX = (softmax, torch.softmax, Tensor.softmax)
