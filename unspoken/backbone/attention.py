# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""How a pass over a model attends, and to which positions. The weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from unspoken.backbone.caches import kept
from unspoken.backbone.hooks import Before, before
from unspoken.types import KV

__all__ = ["GROUPED", "Attention", "few_tokens", "narrowed", "proof_of_narrowing"]

GROUPED = "sdpa_grouped"
"""transformers' `sdpa`, within `few_tokens` without its copies of shared keys and values."""

_few = ContextVar("_few", default=False)


@contextmanager
def few_tokens() -> Generator[None]:
    """While it is on, this thread reads few tokens after a long cache.

    Where query heads share keys and values, transformers copies these for each head if there is a
    mask. For few tokens repeating the mask is cheaper. What comes out differs by rounding.
    """
    token = _few.set(True)
    try:
        yield
    finally:
        _few.reset(token)


_ONE_EACH: Any = SimpleNamespace(num_key_value_groups=1, is_causal=True)


def _grouped(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query: (B, H, N, D), key and value: (B, H/G, S, D), mask: (B, 1, N, S): (B, N, H, D).

    The G query heads of one key head follow one another as G x N queries of one head.
    """
    rows, heads = query.shape[2], key.shape[1]
    if attention_mask is None and 1 < rows < key.shape[2]:
        before = key.shape[2] - rows  # rows in front, so that "causal" means the same for the rest
        query = pad(query, (0, 0, before, 0))
        out, _ = sdpa_attention_forward(module, query, key, value, None, **kwargs)
        return out[:, before:], None
    groups = query.shape[1] // heads
    few = _few.get() and rows < 2 * heads * key.shape[3]  # the mask is smaller than the copies
    if not few or attention_mask is None or attention_mask.shape[1] > 1 or groups == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    packed = query.reshape(query.shape[0], heads, groups * rows, -1)
    mask = attention_mask.repeat(1, 1, groups, 1)
    out, _ = sdpa_attention_forward(_ONE_EACH, packed, key, value, mask, **kwargs)
    out = out.unflatten(1, (groups, rows)).permute(0, 2, 3, 1, 4)
    return out.reshape(query.shape[0], rows, query.shape[1], -1), None


AttentionInterface.register(GROUPED, _grouped)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **rest: Any,
) -> Tensor | None:
    """transformers' mask, or None for many tokens after a short cache, all real and all in sight.

    With a mask, scaled_dot_product_attention leaves the path that is fast for causal attention.
    """
    plain = allow_is_causal_skip and (local_size is None or kv_length < local_size)
    short = isinstance(q_offset, int) and 0 < q_offset <= q_length and q_length > 1
    after = short and kv_offset == 0 and q_offset + q_length == kv_length
    if plain and after and (attention_mask is None or bool(attention_mask.all())):
        return None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **rest,
    )


AttentionMaskInterface.register(GROUPED, _mask)


class Attention(TorchFunctionMode):
    """While it is on, adds up the attention that each slot of a cache gets, in this thread only."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self._nothing = torch.zeros(1, *mask.shape, device=mask.device)
        self._layers: list[Tensor] = []

    @property
    def paid(self) -> Tensor:
        """(L, B, S), summed over heads and the tokens that are read."""
        return torch.stack(self._layers) if self._layers else self._nothing

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            query, key = args[:2]
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            scores = query @ key.mT * scale + kwargs["attn_mask"]
            self._layers.append(scores.float().softmax(-1).sum((1, 2)))
        return func(*args, **kwargs)


def narrowed(layers: Sequence[Any], seen: Tensor) -> AbstractContextManager[None]:
    """While it is on, each layer of the model attends only to slots that it may see.

    layers: the model's L decoder layers, which take an `attention_mask`. seen: (L, B, S) for the
    first S slots of a cache. All later slots are seen. A softmax over masked scores is exactly the
    softmax over the rest. No value of a key could do that. Other threads' passes do not change.
    """
    pairs = enumerate(zip(layers, seen, strict=True))
    return before(
        [(layer, _narrow(n, slots)) for n, (layer, slots) in pairs if not bool(slots.all())]
    )


def _narrow(number: int, seen: Tensor) -> Before:
    def narrow(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        if mask is None:  # plainly causal
            states = args[0] if args else kwargs["hidden_states"]
            past = kwargs.get("past_key_values", kwargs.get("layer_past"))
            read = past.get_seq_length(number) if past is not None else 0
            size = read + states.shape[1]
            every = torch.ones(states.shape[1], size, dtype=torch.bool, device=states.device)
            mask = every.tril(size - states.shape[1])
        open_ = pad(seen, (0, mask.shape[-1] - seen.shape[1]), value=True)[:, None, None]
        if mask.dtype == torch.bool:
            mask = mask & open_
        else:
            mask = mask.masked_fill(~open_, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": mask}

    return narrow


@torch.no_grad()
def proof_of_narrowing(base: Any, layers: int) -> tuple[KV, KV] | None:
    """Two tokens read after a cache that no layer may see, and without one. They must be equal.

    None if the model cannot be narrowed at all.
    """
    ids = torch.arange(5, device=base.device)[None]
    hidden = torch.zeros(layers, 1, 3, dtype=torch.bool, device=base.device)
    after, alone = DynamicCache(), DynamicCache()

    def read(cache: DynamicCache, part: slice, mask: Tensor) -> None:
        tokens = ids[:, part]
        base(
            input_ids=tokens,
            attention_mask=torch.ones_like(mask),
            position_ids=tokens,
            past_key_values=cache,
            use_cache=True,
        )

    with (
        torch.autocast(base.device.type, enabled=False),
        suppress(AttributeError, KeyError, TypeError, ValueError, RuntimeError),
    ):
        read(after, slice(3), ids[:, :3])
        with narrowed(base.layers, hidden):
            read(after, slice(3, None), ids)
        read(alone, slice(3, None), ids[:, 3:])
        return tuple((k[:, :, 3:], v[:, :, 3:]) for k, v in kept(after)), kept(alone)
    return None
