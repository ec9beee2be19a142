"""Forward passes over a causal model of transformers: what every module of the backbone calls."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from inspect import signature
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from unspoken.backbone import proofs
from unspoken.backbone.attention import GROUPED, narrowed
from unspoken.backbone.caches import fresh_cache, has_holes, kept, layer_kinds, sized_cache
from unspoken.backbone.hooks import Before, before
from unspoken.backbone.inner import border, decoder_of, end_tokens, opened, text_config, turns_alone
from unspoken.backbone.model import LanguageModel
from unspoken.backbone.once import once
from unspoken.cancelling import stop_if_cancelled
from unspoken.errors import ContextTooLong
from unspoken.layout import VECTOR, Chunk
from unspoken.scheduling import CHUNK, Turns
from unspoken.types import KV, Context, NeedKind, Spec, counted

__all__ = ["CHUNK", "Passes", "chunked"]


def chunked(count: int) -> Iterator[slice]:
    """The tokens of each pass over `count` of them. Raises `Cancelled` before a pass.

    >>> [(part.start, part.stop) for part in chunked(600)]
    [(0, 512), (512, 600)]
    """
    for begin in range(0, count, CHUNK):
        stop_if_cancelled(begin)
        yield slice(begin, min(begin + CHUNK, count))


class Passes(LanguageModel):
    """A causal language model whose layers keep keys and values, and single passes over it.

    A model that computes attention by `sdpa` is set to `GROUPED`, which is the same outside `fill`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(opened(model, name), tokenizer, name=name)
        turns_alone(self.model)
        self.begin = 0  # what the model calls its first position
        self.turns = Turns()
        if self.attention == "sdpa" and self.kinds:
            self.model.set_attn_implementation(GROUPED)

    def _describe(self) -> Spec:
        found = self._spec()
        if not self.keeps:
            return replace(found, gives=self._gives(("text",), found.width), takes=("text",))
        heads, width, _ = self.shapes[0]
        vectors = self.embeds and self._width_in == found.width
        return replace(
            found,
            window=self.window if "sliding" in self.kinds else None,
            kinds=self.kinds,
            positions=None if found.positions is None else found.positions - self.begin,
            kv_heads=heads,
            head_dim=width,
            even=self.shapes == ((heads, width, width),) * found.layers,
            gives=self._gives(("text", "cache"), found.width),
            takes=found.takes if vectors else ("text", "cache"),
            batches=self.pads,
        )

    def _gives(self, kinds: tuple[NeedKind, ...], width: int) -> tuple[NeedKind, ...]:
        """Those kinds, and states if all are of that width, and rollouts if they can be fed."""
        states = proofs.states(self)
        if {state.shape[-1] for state in states} == {width}:
            kinds = (*kinds, "hidden")
        fed = states and self.keeps and self.embeds
        return (*kinds, "rollout") if fed and states[-1].shape[-1] == self._width_in else kinds

    @once
    def kinds(self) -> tuple[Literal["full", "sliding"], ...]:
        """How far each layer sees, () if one keeps no keys and values of its own."""
        try:
            return layer_kinds(self.model)
        except (AttributeError, TypeError):  # a configuration that no cache can be made from
            return ()

    @property
    def window(self) -> int | None:
        """The positions that a sliding layer sees, None without a window."""
        config = text_config(self.model)
        return getattr(config, "sliding_window", None) or getattr(
            config, "attention_chunk_size", None
        )

    @once
    def keeps(self) -> bool:
        """Whether reading in parts, with a cache between, gives what one plain pass gives."""
        for begin in proofs.beginnings(self.body) if self.kinds else ():
            self.begin = begin
            if proofs.keeps(self):
                return True
        self.begin = 0
        self._check_words(proofs.plain_logits(self))  # of NaN nothing can be proved
        return False

    @once
    def pads(self) -> bool:
        """Whether a row gives the same result alone and in a batch, with padding before it."""
        return proofs.pads(self)

    @once
    def gaps(self) -> bool:
        """Whether padding between two parts of a row changes nothing."""
        return proofs.pads(self, gap=True)

    @once
    def embeds(self) -> bool:
        """Whether embeddings that are given are read like the words that they are of."""
        return proofs.embeds(self)

    @once
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """For each layer its key heads, and the widths of a key and of a value."""
        run = proofs.probe(self)
        kv, _ = self.pass_over((), run.mask[:, :0], run, counted(run.mask))
        return tuple((keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in kv)

    @property
    def _width_in(self) -> int:
        """How wide an input embedding is."""
        return self.model.get_input_embeddings().weight.shape[1]

    @once
    def last_logits(self) -> dict[str, int]:
        """What asks the model for the logits of the last position alone, if it can be asked."""
        known = signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

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
        """Read a run, in passes of `CHUNK` tokens: the grown cache, and the states of `layers`.

        mask: (B, S), of the slots that were read before. at: the positions of the run's slots. With
        `top`, a pass ends below that layer, and the cache is that of the layers below it. Raises
        `Cancelled` before a pass.
        """
        given, count, before_ = self._inputs(run), run.ids.shape[1], mask.shape[1]
        mask = torch.cat((mask, run.mask), 1).long()
        cache = self._cache(kv, before_, count, [*given.values()])
        states: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        inputs = (
            []
            if top is None
            else [(self.body.layers[layer], _keep_input(states, layer, top)) for layer in layers]
        )
        for part in chunked(count):
            with suppress(_TopReached), before(inputs), self.turns.read(part.stop - part.start):
                out = self.body(
                    **{name: tensor[:, part] for name, tensor in given.items()},
                    attention_mask=mask[:, : before_ + part.stop],
                    position_ids=at[:, part] + self.begin,
                    past_key_values=cache,
                    use_cache=True,
                    output_hidden_states=bool(layers) and top is None,
                )
                for layer in layers:
                    states[layer].append(out.hidden_states[layer])
        return kept(cache), {n: torch.cat(found, 1) for n, found in states.items() if found}

    def extend(
        self, kv: KV, ids: Tensor, mask: Tensor, at: Tensor | None = None, *, layers: int
    ) -> KV:
        """Read token ids (B, N) after a cache of S positions. Returns the cache of all S + N.

        mask: (B, S + N), padding anywhere, but for models with a sliding window only on the left.
        at: the positions (B, N) of the ids, else real ones are counted. layers: that many, from
        the lowest, are computed and kept.
        """
        assert self.facts.window is None or not has_holes(mask)
        body, front = self.body, mask.shape[1] - ids.shape[1]
        cache = self._cache(kv, front, ids.shape[1], ())
        at = counted(mask)[:, front:] if at is None else at
        ends = layers < self.facts.layers and hasattr(body, "layers")
        last = [(body.layers[layers], _keep_input({}, layers, layers))] if ends else []
        for part in chunked(ids.shape[1]):
            with suppress(_TopReached), before(last), self.turns.read(part.stop - part.start):
                body(
                    input_ids=ids[:, part],
                    attention_mask=mask[:, : front + part.stop].long(),
                    position_ids=self.begin + at[:, part],
                    past_key_values=cache,
                    use_cache=True,
                )
        return kept(cache)[:layers]

    def next_logits(self, context: Context) -> Tensor:
        """Logits (B, V) after the last token of a context, which is read here."""
        return self.model(
            input_ids=context.last[:, None],
            attention_mask=context.mask.long(),
            position_ids=self.begin + context.positions[:, -1:],
            past_key_values=fresh_cache(context.kv),
            use_cache=True,
        ).logits[:, -1]

    def _cache(self, kv: KV, before: int, count: int, given: Sequence[Tensor]) -> Any:
        """A cache that begins with `before` slots and takes `count` more, in one pass or several.

        Several passes write in place, where no gradient needs what was there.
        """
        if count <= CHUNK:
            return fresh_cache(kv)
        tensors = chain(given, (part for pair in kv for part in pair), self.model.parameters())
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return fresh_cache(kv)
        return sized_cache(kv, len(kv or self.shapes), before + count)

    def _inputs(self, run: Chunk) -> dict[str, Tensor]:
        if run.vectors is None:
            return {"input_ids": run.ids}
        embedded = self.embed(run.ids.clamp(min=0))
        places = (run.ids == VECTOR)[..., None]
        return {"inputs_embeds": embedded.masked_scatter(places, run.vectors.to(embedded.dtype))}

    @once
    def border(self) -> int | None:
        """The length beyond which all keys turn otherwise, None for most models."""
        return border(text_config(self.model))

    def check_room(
        self,
        read: Tensor,
        more: int | Tensor,
        *,
        whole: bool = True,
        task: Literal["write", "score"] = "write",
    ) -> None:
        """Raise `ContextTooLong` if there is no room for `more`, one number or one a row (B,).

        read: (B,), the positions that were read. whole: they are kept as a cache.
        """
        whole_length, row = (read + more).max(0)
        length = int(read[row])
        count = int(whole_length) - length
        remedy = "lower max_tokens" if task == "write" else "what comes after it"
        if whole and self.border is not None and length + count > self.border:
            raise ContextTooLong(
                f"{length} positions read and {count} to {task} exceed {self.border}, where all "
                f"keys of {self.name!r} turn otherwise. Shorten the prompt, {remedy}, or use the "
                "channel 'text'"
            )
        limit = self.facts.positions
        if limit is not None and length + count > limit:
            raise ContextTooLong(
                f"{length} positions read and {count} to {task} exceed the {limit} of "
                f"{self.name!r}. Shorten the prompt or {remedy}"
            )


class _TopReached(Exception):
    """Ends a forward pass whose upper layers nobody needs."""


def _keep_input(states: dict[int, list[Tensor]], layer: int, top: int) -> Before:
    """Keeps what goes into `layer`, and ends the pass there if it is the top."""

    def keep(args: Any, kwargs: dict[str, Any]) -> None:
        states.setdefault(layer, []).append(args[0] if args else kwargs["hidden_states"])
        if layer == top:
            raise _TopReached

    return keep
