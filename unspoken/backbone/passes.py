"""Forward passes over a causal model of transformers: what every module of the backbone calls."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.attention import GROUPED, narrowed
from unspoken.backbone.caches import fresh_cache, has_holes, kept, layer_kinds
from unspoken.backbone.inner import decoder_of, end_tokens, opened, text_config
from unspoken.backbone.model import LanguageModel
from unspoken.errors import ContextTooLong
from unspoken.layout import VECTOR, Chunk
from unspoken.types import KV, Context, Spec, counted

__all__ = ["Passes"]


class Passes(LanguageModel):
    """A causal language model whose layers keep keys and values, and single passes over it.

    A model that computes attention by `sdpa` is set to `GROUPED`, which is the same outside `fill`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(opened(model, name), tokenizer, name=name)
        self._kinds = layer_kinds(self.model, name)
        if self.attention == "sdpa":
            self.model.set_attn_implementation(GROUPED)

    def _describe(self) -> Spec:
        config = text_config(self.model)
        return replace(
            self._spec(config),
            window=config.sliding_window if "sliding" in self._kinds else None,
            kinds=self._kinds,
        )

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, by the checkpoint or by the tokenizer."""
        return end_tokens(self.model, self.tokenizer)

    @property
    def attention(self) -> str:
        """How the model computes attention, by transformers' name: sdpa, eager, ..."""
        kind = super().attention
        return "sdpa" if kind == GROUPED else kind

    @property
    def body(self) -> Any:
        """The language side of the model without its head."""
        return decoder_of(self.model)

    def seeing(self, seen: Tensor | None, count: int | None = None) -> AbstractContextManager[None]:
        """Within it, passes see only `seen` (L, B, S), or its first `count` slots. None is all."""
        return nullcontext() if seen is None else narrowed(self.body.layers, seen[..., :count])

    def pass_over(
        self,
        kv: KV,
        mask: Tensor,
        run: Chunk,
        at: Tensor,
        layers: Sequence[int] = (),
        top: int | None = None,
    ) -> tuple[KV, dict[int, Tensor]]:
        """One pass over a run: the grown cache, and the states of `layers`.

        mask: (B, S), of the slots that were read before. at: the positions of the run's slots. With
        `top`, the pass ends below that layer and the cache is not to be used.
        """
        if not run.ids.shape[1]:
            return kv, {}
        if top is not None:
            states = {}
            with suppress(_TopReached), ExitStack() as hooks:
                for layer in layers:
                    hook = _keep_input(states, layer, top)
                    module = self.body.layers[layer]
                    hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                self.pass_over(kv, mask, run, at)
            return (), states
        mask = torch.cat((mask, run.mask), 1)
        cache = fresh_cache(kv)
        out = self.body(
            **self._inputs(run),
            attention_mask=mask.long(),
            position_ids=at,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=bool(layers),
        )
        return kept(cache), {layer: out.hidden_states[layer] for layer in layers}

    def extend(
        self, kv: KV, ids: Tensor, mask: Tensor, at: Tensor | None = None, *, layers: int
    ) -> KV:
        """Read token ids (B, N) after a cache of S positions. Returns the cache of all S + N.

        mask: (B, S + N), padding anywhere, but for models with a sliding window only on the left.
        at: the positions (B, N) of the ids, else real ones are counted. layers: that many, from
        the lowest, are computed and kept.
        """
        assert self.facts.window is None or not has_holes(mask)
        cache = fresh_cache(kv)
        with suppress(_TopReached), ExitStack() as hooks:
            if layers < self.facts.layers and hasattr(self.body, "layers"):
                hook = _keep_input({}, layers, layers)
                module = self.body.layers[layers]
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            self.body(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=counted(mask)[:, -ids.shape[1] :] if at is None else at,
                past_key_values=cache,
                use_cache=True,
            )
        return kept(cache)[:layers]

    def _inputs(self, run: Chunk) -> dict[str, Tensor]:
        if run.vectors is None:
            return {"input_ids": run.ids}
        embedded = self.embed(run.ids.clamp(min=0))
        places = (run.ids == VECTOR)[..., None]
        return {"inputs_embeds": embedded.masked_scatter(places, run.vectors.to(embedded.dtype))}

    def _check_room(self, context: Context, count: int) -> None:
        limit, length = self.facts.positions, int(context.length.max())
        if limit is not None and length + count > limit:
            raise ContextTooLong(
                f"{length} positions read and {count} to write exceed the {limit} of "
                f"{self.name!r}. Shorten the prompt or lower max_tokens"
            )


class _TopReached(Exception):
    """Ends a forward pass whose upper layers nobody needs."""


def _keep_input(states: dict[int, Tensor], layer: int, top: int) -> Callable[..., None]:
    """A hook that keeps what goes into `layer`, and ends the pass there if it is the top.

    Passes of other threads go through the same module. The hook ignores them.
    """
    thread = get_ident()

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        if get_ident() != thread:
            return
        states[layer] = args[0] if args else kwargs["hidden_states"]
        if layer == top:
            raise _TopReached

    return hook
