"""Reading tokens into chosen slots of a cache whose other slots are known."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from unspoken.backbone.attention import Attention, few_tokens
from unspoken.backbone.caches import placed_cache
from unspoken.backbone.inner import text_config
from unspoken.backbone.once import once
from unspoken.backbone.passes import Passes
from unspoken.backbone.proofs import filled, turns_by_length
from unspoken.errors import IncompatibleModels
from unspoken.types import KV, counted

__all__ = ["Filling"]


class Filling(Passes):
    """A model that reads into a filled cache, if the proof on it passes."""

    @property
    def fills(self) -> bool:
        """Whether `fill` gives what a dense read gives. Proved once on this model."""
        return self._proved

    @once
    def _proved(self) -> bool:
        sound = self.keeps and not turns_by_length(self.body)
        return sound and filled(self.body, self.fill, self.dtype, self.window)

    @torch.no_grad()
    def fill(
        self, kv: KV, ids: Tensor, slots: Tensor, mask: Tensor, *, attended: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Read token ids (B, N) into the slots (B, N) of a cache whose other slots are filled.

        kv: L x (B, H, S, D), written in place, so it must belong to the caller. mask: (B, S), each
        row padded on the left. A token sees the real slots up to and with its slot, within the
        window of a sliding layer, whether they were filled before or are read in this same pass. A
        row with fewer tokens than N names one of them again. Returns the logits (B, V) after the
        tokens that are named last, and the attention that each slot got, (L, B, S), summed over
        heads and tokens. Without `attended` that is zeros (1, B, S). `attended` needs `sdpa`.
        """
        at = counted(mask).gather(1, slots)
        watch = Attention(mask)
        with few_tokens(), self.turns.read(ids.shape[1]), watch if attended else nullcontext():
            logits = self.model(
                input_ids=ids,
                attention_mask=self._sight(slots, mask),
                position_ids=at + self.begin,
                past_key_values=placed_cache(kv, slots),
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1], watch.paid

    @torch.no_grad()
    def regard(self, before: str, after: str) -> Tensor:
        """(L,): the share of each layer's attention that words pay to the words before them.

        The mean over heads and over the tokens of `after`. The very first token is left out, since
        it attracts attention whatever it is. Raises `IncompatibleModels`.
        """
        if self.attention != "sdpa" or not self.fills:
            raise IncompatibleModels(
                f"the attention of {self.name!r} cannot be measured: it is computed by "
                f"{self.attention!r}. Load the model with attn_implementation='sdpa'"
            )
        earlier = [*self._bos, *self.tokens(before)]
        ids = torch.tensor([[*earlier, *self.tokens(after)]], device=self.device)
        mask, slots = torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]
        kv = self.extend((), ids, mask, layers=self.facts.layers)
        asked = slots[:, len(earlier) :].to(self.device)
        _, paid = self.fill(kv, ids[:, len(earlier) :], asked, mask, attended=True)
        paid = paid[:, 0]
        return paid[:, 1 : len(earlier)].sum(1) / paid.sum(1)

    def _sight(self, slots: Tensor, mask: Tensor) -> Any:
        """What tokens at `slots` see, to be added to attention scores: (B, 1, N, S), or by kind."""
        every = torch.arange(mask.shape[1], device=mask.device)
        seen = mask[:, None] & (every <= slots[..., None])

        def added(seen: Tensor) -> Tensor:
            none = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            return none.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]

        window = self.facts.window
        if window is None:
            return added(seen)
        near = added(seen & (every > slots[..., None] - window))
        kinds = set(getattr(text_config(self.model), "layer_types", None) or ())
        if kinds <= {"sliding_attention"}:
            return near
        return {"full_attention": added(seen), "sliding_attention": near}
