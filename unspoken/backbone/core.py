"""A language model and its tokenizer behind four verbs: read, write, score, shift.

Everything that depends on the version of transformers lives in this package (and in the conversion
of packaged weights, `models.py`, and the test doubles, `testing.py`).
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig
from transformers.generation.stopping_criteria import StoppingCriteriaList

from unspoken import models, rope
from unspoken.backbone.attention import (
    GROUPED,
    Attention,
    few_tokens,
    narrowed,
    proof_of_narrowing,
)
from unspoken.backbone.caches import (
    append,
    close_holes,
    counts,
    expand,
    filled_layers,
    fresh_cache,
    gather_states,
    growing_cache,
    has_holes,
    join_rows,
    kept,
    layer_kinds,
    left_order,
    placed_cache,
    positions,
    seen_slots,
)
from unspoken.backbone.generation import (
    Ahead,
    StopAt,
    Teller,
    Watch,
    cut,
    prefilled,
    written_lengths,
)
from unspoken.backbone.model import LanguageModel
from unspoken.backbone.rollout import Expected, aligned, alignment, drive
from unspoken.errors import ContextTooLong, EmptyPrompt, IncompatibleModels
from unspoken.layout import VECTOR, Part, Run, lay_out, spell
from unspoken.types import (
    KV,
    MEMORY,
    TEXT,
    Context,
    Memory,
    Need,
    Prompt,
    Read,
    Rollout,
    Settings,
    Spec,
    Spelling,
    Vectors,
    Words,
    left_pad,
)

__all__ = ["Backbone", "causal"]

_UNWHOLE = (
    "{name!r} has read a memory that leaves out layers, so its own cache is no whole one to pass "
    "on; send all layers to it, or let it answer over the channel 'text'"
)


class Backbone(LanguageModel):
    """A causal language model with a KV cache, frozen, and its tokenizer.

    A model that computes attention by `sdpa` is set to `GROUPED`, which is the same outside `fill`.

    >>> from unspoken.testing import tiny_backbone
    >>> from unspoken.types import Prompt, Settings, Text
    >>> model = tiny_backbone("llama")
    >>> context = model.read(Prompt((Text(("two plus two is",)),))).context
    >>> model.write(context, Settings(max_tokens=4)).passes
    4
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        super().__init__(model, tokenizer, name=name)
        self._lead: tuple[object, KV] = ((), ())
        self._alignments: dict[bool, tuple[Tensor | None, Tensor]] = {}
        self._kinds = layer_kinds(model, name)
        if self.attention == "sdpa":
            model.set_attn_implementation(GROUPED)

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: str | torch.dtype = "auto", device: str | None = None, **hf: Any
    ) -> Backbone:
        """Load a packaged model by its short name, a local folder or a Hugging Face name.

        `hf` goes to transformers' `from_pretrained` as it is. Raises `UnknownName` when nothing by
        that name can be found, `MissingExtra` when the package of a known name is not installed.
        """
        where = models.resolve(name)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with models.explained(name):
            tokenizer = models.load_tokenizer(name, where)
            model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **hf)
        return cls(model.to(device), tokenizer, name=name)

    @cached_property
    def spec(self) -> Spec:
        """Shapes and identity; what `Channel.check` compares."""
        config = self.model.config
        return replace(
            self._spec(config),
            window=config.sliding_window if "sliding" in self._kinds else None,
            kinds=self._kinds,
        )

    @property
    def attention(self) -> str:
        """How the model computes attention, by transformers' name: sdpa, eager, ..."""
        kind = super().attention
        return "sdpa" if kind == GROUPED else kind

    # -- read --------------------------------------------------------------------------------------

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Read a prompt of B rows and compute what is needed; no vocabulary logits.

        The last segment must be text, so that generation has a token to continue from. A shared
        lead at the front is read once for the whole batch. Raises `EmptyPrompt`, `ContextTooLong`
        and `IncompatibleModels` before any forward pass.
        """
        parts = self.lay_out(prompt)
        if self._holes_matter(parts, prompt.batch):
            return join_rows([self.read(prompt.row(b), needs=needs) for b in range(prompt.batch)])
        return self.read_parts(parts, prompt.batch, needs=needs)

    def read_parts(self, parts: Sequence[Part], batch: int, *, needs: frozenset[Need]) -> Read:
        """Read what `lay_out` made of a prompt of B rows; `read` for those who cut it otherwise."""
        layers = sorted(need.layer for need in needs if need.kind == "hidden")
        runs = [part for part in parts if isinstance(part, Run)]
        if layers and all(run.shared for run in runs):
            raise EmptyPrompt("there are no states to pass on: nothing stands behind the lead")
        held = [part.layers if isinstance(part, Memory) else self._all for part in parts]
        seen = seen_slots([part.mask.expand(batch, -1) for part in parts], held)
        if seen is not None and MEMORY in needs:
            raise IncompatibleModels(_UNWHOLE.format(name=self.name))
        last, top = runs[-1].expand(batch), None
        whole = bool(layers) or MEMORY in needs  # else the last token is left to the first decode
        kv: KV = ()
        mask = torch.zeros(batch, 0, dtype=torch.bool, device=self.device)
        hidden: list[tuple[dict[int, Tensor], Tensor]] = []
        for part in parts:
            # What all rows begin with is read by one of them.
            alone = len(part.mask) == 1 and part is not parts[-1] and (not kv or len(kv[0][0]) == 1)
            rows = 1 if alone else batch
            kv = tuple((expand(k, rows), expand(v, rows)) for k, v in kv)
            if isinstance(part, Memory):
                own = filled_layers(part, self.spec.kv_heads)
                own = tuple((k.to(self.dtype), v.to(self.dtype)) for k, v in own)
                kv = append(kv, self.shift(own, mask.sum(1)[:rows]) if kv else own)
            elif part.shared and part is parts[0] and part is not parts[-1]:
                kv = self._read_lead(part)
            else:
                run = part.expand(rows)
                if part is parts[-1]:
                    run = run if whole else run.without_last()
                    top = self._top(needs)
                with self._seeing(seen, mask.shape[1]):
                    kv, states = self._forward(kv, mask[:rows], run, layers, top)
                if layers and not part.shared:
                    states = {n: expand(state, batch) for n, state in states.items()}
                    hidden.append((states, run.heard.expand(batch, -1)))
            mask = torch.cat((mask, part.mask.expand(batch, -1)), 1)
        spelling = spell(parts, batch)
        if self.spec.window is not None and has_holes(mask):  # what is written may reach it
            seen = None if seen is None else seen.take_along_dim(left_order(mask)[None], 2)
            kv, mask, spelling = close_holes(kv, mask, spelling)
        return Read(
            tokens=counts([run.mask for run in runs], batch),
            passes=len(runs),
            found=Context(
                tuple((k[:, :, :-1], v[:, :, :-1]) for k, v in kv) if whole else kv,
                mask,
                last.ids[:, -1],
                spelling,
                seen=seen,
            )
            if top is None
            else None,
            hidden={
                n: gather_states([(states[n], heard) for states, heard in hidden]) for n in layers
            },
            memory=Memory(kv, mask, spelling) if MEMORY in needs else None,
        )

    @property
    def _all(self) -> tuple[bool, ...]:
        return (True,) * self.spec.layers

    def _seeing(
        self, seen: Tensor | None, count: int | None = None
    ) -> AbstractContextManager[None]:
        """Passes within it keep to `seen` (L, B, S), or its first `count` slots; None for all."""
        return nullcontext() if seen is None else narrowed(self._base.layers, seen[..., :count])

    @cached_property
    def _narrows(self) -> bool:
        """Whether layers can be kept from seeing a memory: proved on this model, once."""
        found = proof_of_narrowing(self._base, self.spec.layers)
        return found is not None and _near(*found, self.dtype)

    def lay_out(self, prompt: Prompt) -> list[Part]:
        """The prompt as tokens, vectors and caches, checked as `read` checks it."""
        parts = lay_out(prompt, self.encode, self._bos, self.device)
        self._check(parts, prompt.batch)
        return parts

    @torch.no_grad()
    def _read_lead(self, run: Run) -> KV:
        """The cache of a shared lead, of one row, kept until another lead comes."""
        precise = torch.is_autocast_enabled(self.device.type)
        key = (tuple(run.ids[0].tolist()), precise)
        kept, kv = self._lead
        if kept != key:
            kv, _ = self._forward((), run.mask[:, :0], run)
            self._lead = (key, kv)
        return kv

    def _top(self, needs: frozenset[Need]) -> int | None:
        """The layer at which reading may end, when nothing but states up to it is needed."""
        if {need.kind for need in needs} != {"hidden"} or not hasattr(self._base, "layers"):
            return None
        layers = [need.layer for need in needs]  # negative ones count from the top
        return max(layers) if min(layers) >= 0 and max(layers) < self.spec.layers else None

    @property
    def _base(self) -> Any:
        return self.model.base_model

    def _forward(
        self,
        kv: KV,
        mask: Tensor,
        run: Run,
        layers: Sequence[int] = (),
        top: int | None = None,
    ) -> tuple[KV, dict[int, Tensor]]:
        """One pass over a run: the grown cache, and the states of `layers`.

        With `top`, the pass ends below that layer and the cache is not to be used.
        """
        if not run.ids.shape[1]:
            return kv, {}
        if top is not None:
            states = {}
            with suppress(_TopReached), ExitStack() as hooks:
                for layer in layers:
                    hook = _keep_input(states, layer, top)
                    module = self._base.layers[layer]
                    hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                self._forward(kv, mask, run)
            return (), states
        mask = torch.cat((mask, run.mask), 1)
        cache = fresh_cache(kv)
        out = self._base(
            **self._inputs(run),
            attention_mask=mask.long(),
            position_ids=positions(mask)[:, -run.ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=bool(layers),
        )
        return kept(cache), {layer: out.hidden_states[layer] for layer in layers}

    def extend(
        self, kv: KV, ids: Tensor, mask: Tensor, at: Tensor | None = None, *, layers: int
    ) -> KV:
        """Read token ids (B, N) behind a cache of S positions: the cache of all S + N.

        mask: (B, S + N), padding anywhere, but for models with a sliding window only on the left.
        at: the positions (B, N) of the ids, else real ones are counted. layers: so many, from the
        lowest, are computed and kept.
        """
        assert self.spec.window is None or not has_holes(mask)
        cache = fresh_cache(kv)
        with suppress(_TopReached), ExitStack() as hooks:
            if layers < self.spec.layers and hasattr(self._base, "layers"):
                hook = _keep_input({}, layers, layers)
                module = self._base.layers[layers]
                hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            self._base(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions(mask)[:, -ids.shape[1] :] if at is None else at,
                past_key_values=cache,
                use_cache=True,
            )
        return kept(cache)[:layers]

    @cached_property
    def fills(self) -> bool:
        """Whether `fill` gives what a dense read gives: proved on this model, once."""
        if self._turns_by_length:
            return False
        ids = torch.arange(6, device=self.device)[None]
        mask, cache = torch.ones_like(ids, dtype=torch.bool), DynamicCache()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self._base(input_ids=ids, position_ids=ids, past_key_values=cache, use_cache=True)
            room = tuple((keys.clone(), values.clone()) for keys, values in kept(cache))
            for keys, values in room:
                keys[:, :, 2:4], values[:, :, 2:4] = 0, 0
            with suppress(TypeError, ValueError, RuntimeError, IndexError):
                self.fill(room, ids[:, 2:4], ids[:, 2:4], mask)
        return _near(room, kept(cache), self.dtype)

    @torch.no_grad()
    def fill(
        self, kv: KV, ids: Tensor, slots: Tensor, mask: Tensor, *, attended: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Read token ids (B, N) into the slots (B, N) of a cache whose other slots are filled.

        kv: L x (B, H, S, D), written in place, so the caller's own. mask: (B, S), each row padded
        on the left. A token sees the real slots up to its own, within the window of a sliding
        layer, whether they were there before or are read in this same pass. A row with fewer
        tokens than N names one of its own again. Returns the logits (B, V) behind the tokens that
        are named last, and (L, B, S): with `attended` the attention that each slot got, summed over
        heads and tokens, otherwise zeros (1, B, S); it takes a model whose attention is `sdpa`.
        """
        at = positions(mask).gather(1, slots)
        watch = Attention(mask)
        with few_tokens(), watch if attended else nullcontext():
            logits = self.model(
                input_ids=ids,
                attention_mask=self._sight(slots, mask),
                position_ids=at,
                past_key_values=placed_cache(kv, slots),
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1], watch.paid

    @torch.no_grad()
    def regard(self, before: str, after: str) -> Tensor:
        """(L,): the share of each layer's attention that words pay to the words before them.

        The mean over heads and over the tokens of `after`. The first token of all is left out: it
        attracts attention whatever it is. Raises `IncompatibleModels`.
        """
        if self.attention != "sdpa" or not self.fills:
            raise IncompatibleModels(
                f"the attention of {self.name!r} cannot be measured, it is computed by "
                f"{self.attention!r}; load the model with attn_implementation='sdpa'"
            )
        heard = [*self._bos, *self.tokens(before)]
        ids = torch.tensor([[*heard, *self.tokens(after)]], device=self.device)
        mask, slots = torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]
        kv = self.extend((), ids, mask, layers=self.spec.layers)
        asked = slots[:, len(heard) :].to(self.device)
        _, paid = self.fill(kv, ids[:, len(heard) :], asked, mask, attended=True)
        paid = paid[:, 0]
        return paid[:, 1 : len(heard)].sum(1) / paid.sum(1)

    def _sight(self, slots: Tensor, mask: Tensor) -> Any:
        """What tokens at `slots` see, to be added to attention scores: (B, 1, N, S), or by kind."""
        every = torch.arange(mask.shape[1], device=mask.device)
        seen = mask[:, None] & (every <= slots[..., None])

        def added(seen: Tensor) -> Tensor:
            none = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
            return none.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]

        window = self.spec.window
        if window is None:
            return added(seen)
        near = added(seen & (every > slots[..., None] - window))
        kinds = set(getattr(self.model.config, "layer_types", None) or ())
        if kinds <= {"sliding_attention"}:
            return near
        return {"full_attention": added(seen), "sliding_attention": near}

    def _inputs(self, run: Run) -> dict[str, Tensor]:
        if run.vectors is None:
            return {"input_ids": run.ids}
        embedded = self.embed(run.ids.clamp(min=0))
        places = (run.ids == VECTOR)[..., None]
        return {"inputs_embeds": embedded.masked_scatter(places, run.vectors.to(embedded.dtype))}

    def _check(self, parts: Sequence[Part], batch: int) -> None:
        lengths = sum(part.mask.sum(1).expand(batch) for part in parts)
        longest, limit = int(torch.as_tensor(lengths).max()), self.spec.positions
        if limit is not None and longest > limit:
            raise ContextTooLong(
                f"the prompt has {longest} positions, but {self.name!r} reads at most {limit}; "
                "shorten it or choose a model with a longer context"
            )
        for n, part in enumerate(parts):
            if isinstance(part, Memory):
                self._check_memory(part)
                assert n == 0 or self.frequencies  # raises if it cannot be moved
            elif part.vectors is not None and part.vectors.shape[-1] != self.spec.width:
                raise IncompatibleModels(
                    f"the vectors are {part.vectors.shape[-1]} wide, but {self.name!r} embeds "
                    f"{self.spec.width}; project them into its space first"
                )

    def _check_memory(self, memory: Memory) -> None:
        spec, kv = self.spec, memory.kv
        heads = max(keys.shape[1] for keys, _ in kv)
        given = (len(kv), heads, kv[0][0].shape[3])
        if given == (spec.layers, spec.kv_heads, spec.head_dim) and not all(memory.layers):
            if not self._narrows:
                raise IncompatibleModels(
                    f"the cache leaves out layers, but those of {self.name!r} cannot be kept from "
                    "seeing it; send all layers, or load the model with attn_implementation='sdpa'"
                )
        elif given != (spec.layers, spec.kv_heads, spec.head_dim):
            raise IncompatibleModels(
                f"the cache has {given[0]} layers of {given[1]} x {given[2]}, but {self.name!r} "
                f"has {spec.layers} of {spec.kv_heads} x {spec.head_dim}; use the same weights"
            )

    def _holes_matter(self, parts: Sequence[Part], batch: int) -> bool:
        """Whether padding between parts could push a position out of the sliding window.

        transformers counts the window in cache slots, not in positions. Rows with padding in their
        middle would see too little; such prompts are rare, and their rows are read one by one.
        """
        if self.spec.window is None or batch == 1:
            return False
        mask = torch.cat([part.mask.expand(batch, -1) for part in parts], 1)
        return mask.shape[1] >= self.spec.window and has_holes(mask)

    # -- write, score, shift -----------------------------------------------------------------------

    @torch.no_grad()
    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: Callable[[str], None] | None = None,
        *,
        ahead: Ahead | None = None,
    ) -> Words:
        """Continue each row of a context with words, by `generate` from the prefilled cache.

        `on_text` is called with pieces of text as they come (one row only). ahead: what comes of
        the context's last token, if it was read with the rest; that saves the first pass.
        """
        self._check_room(context, settings.max_tokens)
        stop = StopAt(settings.stop, self.tokenizer) if settings.stop else None
        sampling = settings.temperature > 0
        ends = self.model.generation_config.eos_token_id
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=settings.max_tokens,
            do_sample=sampling,
            temperature=settings.temperature if sampling else None,
            top_p=settings.top_p if sampling else None,
            top_k=0 if sampling else None,
            repetition_penalty=1.0,  # a checkpoint's own sampling defaults are no part of an arm
            eos_token_id=ends,
            pad_token_id=pad if pad is not None else self.tokenizer.eos_token_id,
        )
        watch, cache = Watch(), growing_cache(ahead.kv if ahead else context.kv)
        model = prefilled(self.model, cache, ahead.logits) if ahead else self.model
        with torch.random.fork_rng(enabled=sampling):
            if sampling:
                torch.manual_seed(settings.seed)
            with self._seeing(context.seen):
                out = model.generate(
                    input_ids=context.last[:, None],
                    attention_mask=context.mask.long(),
                    past_key_values=cache,
                    generation_config=config,
                    stopping_criteria=StoppingCriteriaList([watch, stop] if stop else [watch]),
                    streamer=Teller(self.tokenizer, settings.stop, on_text) if on_text else None,
                )[:, 1:]
        lengths = written_lengths(out, ends, stop)
        ids = [row[:n] for row, n in zip(out.tolist(), lengths, strict=True)]
        words = [
            cut(self.tokenizer.decode(row, skip_special_tokens=True), settings.stop) for row in ids
        ]
        return Words(
            tuple(words),
            tuple(lengths),
            passes=out.shape[1] - bool(ahead),
            ids=tuple(map(tuple, ids)),
            kv=kept(cache),
            wait=watch.first,
        )

    @torch.no_grad()
    def roll_out(self, context: Context, need: Need, settings: Settings = Settings()) -> Rollout:
        """Go on from a context for `need.limit` positions without choosing words, see `Rollout`.

        An `expected` rollout ends where its most probable words would, by the end of the sequence
        or a `stop` string, and else after `settings.max_tokens` if there is no limit. The others
        compute no vocabulary, and run to the limit.
        """
        steps, first = need.limit or settings.max_tokens, self.embed(context.last[:, None])
        self._check_room(context, steps)
        if need.feed == "expected":
            return self._expected(context, first, steps, need.temperature, settings.stop)
        feed = aligned(*self._alignment(ridge=need.feed == "ridge"))
        if context.seen is not None:
            raise IncompatibleModels(_UNWHOLE.format(name=self.name))
        driven = drive(self._base, context, first, feed, steps, whole=True)
        mask = context.mask.new_ones(context.batch, steps)
        ends = torch.cat((context.spelling.ends, torch.full_like(mask, -1, dtype=torch.long)), 1)
        spelling = Spelling(context.spelling.words, ends)
        return Rollout(
            Vectors(driven.states, mask),
            Vectors(driven.vectors, mask),
            Memory(driven.kv, torch.cat((context.mask, mask), 1), spelling),
            driven.passes,
        )

    def _expected(
        self, context: Context, first: Tensor, steps: int, temperature: float, stop: Sequence[str]
    ) -> Rollout:
        feed = Expected(self._logits, self.table, temperature)
        ends = self.model.generation_config.eos_token_id
        halt = StopAt(stop, self.tokenizer) if stop else None
        over = torch.zeros(context.batch, dtype=torch.bool, device=self.device)
        known = torch.tensor([] if ends is None else ends, device=self.device)

        def ended() -> bool:
            over.logical_or_(torch.isin(feed.likely[-1], known))
            if halt is not None:
                over.logical_or_(halt(torch.stack((context.last, *feed.likely), 1), None))
            return bool(over.all())

        with self._seeing(context.seen):
            driven = drive(self._base, context, first, feed, steps, whole=False, ended=ended)
        lengths = written_lengths(torch.stack(feed.likely, 1), ends, halt)
        lengths = [n - int(out) for n, out in zip(lengths, over.tolist(), strict=True)]
        said = [
            Vectors(*left_pad([row[:n] for row, n in zip(part, lengths, strict=True)]))
            for part in (driven.states, driven.vectors)
        ]
        return Rollout(*said, memory=None, passes=driven.passes)

    def _logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits (B, V) of last hidden states (B, W), as the model computes them."""
        logits, cap = self.model.get_output_embeddings()(states), self.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _alignment(self, *, ridge: bool) -> tuple[Tensor | None, Tensor]:
        if ridge not in self._alignments:
            self._alignments[ridge] = alignment(self.head, self.embed, ridge=ridge)
        return self._alignments[ridge]

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """Negative log-likelihood (B,) in nats of each row's answer; differentiable.

        answers: words, or tokens as they were written. Only the answer's positions go through the
        vocabulary.
        """
        logits, padded = self._over(context, answers)
        loss = cross_entropy(logits.float().mT, padded, ignore_index=-100, reduction="none")
        return loss.sum(1)

    @torch.no_grad()
    def assess(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What `score` gives (B,), and whether greedy decoding would write the same (B,)."""
        logits, padded = self._over(context, answers)
        loss = cross_entropy(logits.float().mT, padded, ignore_index=-100, reduction="none")
        return loss.sum(1), ((logits.argmax(-1) == padded) | (padded < 0)).all(1)

    def _over(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, N, V) over the tokens of each answer, and these (B, N), padded with -100."""
        ids = [self.tokens(one) if isinstance(one, str) else list(one) for one in answers]
        rows = [torch.tensor(row, device=self.device) for row in ids]
        if len(rows) != context.batch or not all(row.numel() for row in rows):
            raise ValueError(f"need {context.batch} answers of at least one token, got {answers!r}")
        padded = pad_sequence(rows, batch_first=True, padding_value=-100)
        inputs = torch.cat((context.last[:, None], padded[:, :-1]), 1)
        mask = torch.cat((context.mask, padded[:, :-1] >= 0), 1)
        with self._seeing(context.seen):
            logits = self.model(
                input_ids=inputs.clamp(min=0),
                attention_mask=mask.long(),
                position_ids=positions(mask)[:, -padded.shape[1] :],
                past_key_values=fresh_cache(context.kv),
                use_cache=True,
            ).logits
        return logits, padded

    @torch.no_grad()
    def predict(self, context: Context) -> Tensor:
        """Logits (B, V) of the next token in each row."""
        with self._seeing(context.seen):
            return self.model(
                input_ids=context.last[:, None],
                attention_mask=context.mask.long(),
                position_ids=positions(context.mask)[:, -1:],
                past_key_values=fresh_cache(context.kv),
                use_cache=True,
            ).logits[:, -1]

    def shift(self, kv: KV, by: int | Tensor) -> KV:
        """Move a cache by `by` positions (one number, or one for each row): keys re-rotated.

        Raises `IncompatibleModels` when this model's keys cannot be moved by rotation.
        """
        by = torch.as_tensor(by, device=self.device).expand(kv[0][0].shape[0])
        return rope.rotate(kv, by, self.frequencies) if bool(by.any()) else kv

    @cached_property
    def frequencies(self) -> list[Tensor]:
        """L tensors of rotary frequencies, proved on this model: moved keys equal read ones."""
        rotary = getattr(self._base, "rotary_emb", None)
        kinds = getattr(self.model.config, "layer_types", None) or ["full"] * self.spec.layers
        found: list[Any] = [
            getattr(rotary, f"{kind}_inv_freq", None)
            if hasattr(rotary, f"{kind}_inv_freq")
            else getattr(rotary, "inv_freq", None)
            for kind in kinds
        ]
        movable = not self._turns_by_length and all(turn is not None for turn in found)
        if not (movable and self._moves(found)):
            raise IncompatibleModels(
                f"the keys of {self.name!r} cannot be moved to another position: they do not turn "
                "by plain rotary embedding; let the memory stand first in the prompt"
            )
        return found

    @property
    def _turns_by_length(self) -> bool:
        """Whether keys turn by the length of all that is read, not by their position alone."""
        kind = getattr(getattr(self._base, "rotary_emb", None), "rope_type", "")
        return any(name in str(kind) for name in ("longrope", "dynamic"))

    @torch.no_grad()
    def _moves(self, frequencies: Sequence[Tensor]) -> bool:
        by = torch.tensor([5], device=self.device)
        probe = torch.arange(4, device=self.device)[None]
        caches = []
        for start in (probe, probe + 5):
            cache = DynamicCache()
            with torch.autocast(self.device.type, enabled=False):
                self._base(
                    input_ids=probe, position_ids=start, past_key_values=cache, use_cache=True
                )
            caches.append(kept(cache))
        return _near(rope.rotate(caches[0], by, frequencies), caches[1], self.dtype)

    def _check_room(self, context: Context, count: int) -> None:
        limit, length = self.spec.positions, int(context.mask.sum(1).max())
        if limit is not None and length + count > limit:
            raise ContextTooLong(
                f"{length} positions read and {count} to write exceed the {limit} of "
                f"{self.name!r}; shorten the prompt or lower max_tokens"
            )


def causal(model: LanguageModel, what: str) -> Backbone:
    """The model as one with a cache, which `what` needs. Raises `IncompatibleModels`."""
    if not isinstance(model, Backbone):
        raise IncompatibleModels(
            f"{what} a cache, and {model.name!r} keeps none; use a causal model in its place"
        )
    return model


def _near(one: KV, other: KV, dtype: torch.dtype) -> bool:
    """Whether two caches are the same but for rounding, layer by layer."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    return all(
        float((a - b).norm()) <= tolerance * float(b.norm())
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


class _TopReached(Exception):
    """Ends a forward pass whose upper layers nobody needs."""


def _keep_input(states: dict[int, Tensor], layer: int, top: int) -> Callable[..., None]:
    """A hook that keeps what goes into `layer`, and ends the pass there if it is the top.

    Passes of other threads go through the same module; the hook leaves them alone.
    """
    thread = get_ident()

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        if get_ident() != thread:
            return
        states[layer] = args[0] if args else kwargs["hidden_states"]
        if layer == top:
            raise _TopReached

    return hook
