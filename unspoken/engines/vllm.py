"""A model in vLLM: one engine for many agents, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from unspoken.backbone import Backbone
from unspoken.cancelling import stop_if_cancelled
from unspoken.engines.caches import EngineCache, Row
from unspoken.engines.engine import Engine
from unspoken.engines.holding import Holding
from unspoken.engines.scoring import check_scores, score_rows
from unspoken.engines.starting import start
from unspoken.engines.writing import Writing, sampling_of, write_all
from unspoken.errors import IncompatibleModels
from unspoken.finite import not_finite
from unspoken.layout import Chunk, spell
from unspoken.protocols import SameWords
from unspoken.types import (
    CACHE,
    KV,
    TEXT,
    CacheSegment,
    Context,
    Need,
    OnText,
    Prompt,
    Read,
    Settings,
    Spec,
    Words,
    counted,
)

__all__ = ["VllmModel"]


class VllmModel(SameWords[Backbone]):
    """A causal model that reads, writes and scores in an engine of vLLM.

    It holds no second copy of the weights. What is known of the model (its words, its identity, how
    its keys turn) comes from its file, which is mapped and not loaded. What was read is token ids,
    vectors and caches with names, and the engine computes it when it writes or scores. When a
    channel needs the keys and values, the engine reads at once, and they are kept beside it.

    owner: whose caches these are. Owners share neither caches nor blocks, see `owned_by`.
    """

    def __init__(self, plain: Backbone, engine: Engine, owner: str = "") -> None:
        super().__init__(plain)
        self.engine, self.owner = engine, owner
        self._owners = WeakValueDictionary[str, VllmModel]({owner: self})
        self._holding = Holding(plain, engine, owner)
        limit, spec = self._holding.limit, plain.spec
        self._spec = replace(
            spec,
            gives=("text", "cache"),
            positions=min(spec.positions or limit, limit),
            dtype=str(self._holding.dtype).removeprefix("torch."),
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: str = "auto",
        owner: str = "",
        budget: int = 2 << 30,
        **options: Any,
    ) -> VllmModel:
        """Start an engine for a packaged model by its short name, or for a local folder.

        dtype: "auto" is that of the checkpoint. budget: the most bytes of caches that agents may
        hold beside the engine. options: vLLM's own, such as max_model_len, gpu_memory_utilization
        or kv_cache_memory_bytes. Raises `UnknownName`, `MissingExtra` without vLLM, and
        `IncompatibleModels` for what cannot work here, with what to use instead.
        """
        plain, engine = start(name, dtype, budget, options)
        try:
            model = cls(plain, engine, owner)
            check_scores(model._holding)
        except BaseException:
            engine.close()
            raise
        return model

    def owned_by(self, owner: str) -> VllmModel:
        """The same engine for another owner, who shares neither caches nor blocks with this one.

        Equal owners have one model, so that their agents write together.
        """
        found = self._owners.get(owner)
        if found is None:
            found = VllmModel(self.inner, self.engine, owner)
            found._owners = self._owners
            found = self._owners.setdefault(owner, found)
        return found

    def close(self) -> None:
        """End the engine, for all owners."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- identity and keys ---------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """Shapes, identity and abilities. The identity is that of the same model as a Backbone."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where caches and vectors are between requests."""
        return torch.device("cpu")

    @property
    def computed_on(self) -> str:
        """Whose kernels compute, and where: others round otherwise."""
        return f"vllm {self.engine.config.device_config.device_type}"

    @property
    def border(self) -> int | None:
        """The length beyond which all keys turn otherwise, None for most models."""
        return self.inner.border

    @property
    def frequencies(self) -> list[Tensor]:
        """How the keys of each layer turn. Raises `IncompatibleModels`."""
        return self.inner.frequencies

    def shift(self, kv: KV, by: int | Tensor) -> KV:
        """Move a cache by `by` positions, one number or one for each row."""
        return self.inner.shift(kv, by)

    # -- the verbs ---------------------------------------------------------------------------------

    def foresee(self, prompt: Prompt, needs: frozenset[Need], more: int = 0) -> CacheSegment:
        """The cache that `read` would give, without heads. Nothing is read."""
        found = self.inner.foresee(prompt, needs, more)
        self._holding.check_length(found.length, more)
        return found

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Lay out a prompt of B rows. The engine reads it now if a cache is needed, else later.

        Raises `EmptyPrompt`, `ContextTooLong`, `IncompatibleModels`, `OutOfRoom` and `Cancelled`.
        """
        for kind in sorted({need.kind for need in needs} - {"text", "cache"}):
            raise IncompatibleModels(
                f"{self.spec.name!r} in vLLM gives words and caches, not {kind}; use a Backbone "
                "as the sender (engine: transformers)"
            )
        parts = self.inner.parts_of(prompt)
        mask = torch.cat([part.mask.expand(prompt.batch, -1) for part in parts], 1)
        self._holding.check_length(mask.sum(1), 1)
        stop_if_cancelled()
        rows = [Row()] * prompt.batch
        for part in parts:
            rows = self._holding.after(rows, part)
        spelling, positions = spell(parts, prompt.batch), counted(mask)
        last, cached = torch.tensor([row.ids[-1] for row in rows]), None
        known = [replace(row, ids=row.ids[:-1]) for row in rows]
        if CACHE in needs:
            whole = [Row.of(held) for held in self._holding.hold(rows)]
            known = [replace(row, used=row.used - 1) for row in whole]
            kept = EngineCache(self._holding, whole, mask)
            cached = CacheSegment(kept, mask, positions, spelling)
        cache = EngineCache(self._holding, known, mask[:, :-1])
        runs = [part.mask.expand(prompt.batch, -1) for part in parts if isinstance(part, Chunk)]
        return Read(
            tokens=tuple(cast(list[int], torch.cat(runs, 1).sum(1).tolist())),
            passes=1,
            found=Context(cache, mask, last, spelling, positions),
            cached=cached,
        )

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Continue each row of a context with words."""
        return self.write_together([context], [settings], [on_text])[0]

    def write_together(
        self,
        contexts: Sequence[Context],
        settings: Sequence[Settings],
        on_text: Sequence[OnText | None] = (),
    ) -> list[Words]:
        """What `write` gives for each context by its settings, all at once.

        Tokens that are drawn are not those that a Backbone draws by the same seed. Greedy ones are.
        """
        for context, own in zip(contexts, settings, strict=True):
            self._holding.check_length(context.length, own.max_tokens)
        stop_if_cancelled()
        each = zip(contexts, settings, on_text or [None] * len(contexts), strict=True)
        rows = [self._writing(*one) for one in each]
        write_all(self.engine, [row for some in rows for row in some])
        return [self._words(some) for some in rows]

    def _writing(
        self, context: Context, settings: Settings, on_text: OnText | None
    ) -> list[Writing]:
        hows, ends = self.inner.rows(context, settings, on_text), self.inner.ends
        rows, last = self._holding.of(context), cast(list[int], context.last.tolist())
        asked = [
            self._holding.asked(row, [end], sampling_of(settings, how.seed, ends))
            for how, row, end in zip(hows, rows, last, strict=True)
        ]
        return [Writing(self.inner, *pair) for pair in zip(hows, asked, strict=True)]

    def _words(self, rows: Sequence[Writing]) -> Words:
        return self.inner.said(
            [row.row for row in rows],
            [tuple(row.ids) for row in rows],
            [row.finish or "cancelled" for row in rows],
            passes=max(len(row.ids) for row in rows),
            wait=min(row.asked.first for row in rows),
        )

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """Negative log-likelihood (B,) in nats of each row's answer. Not differentiable."""
        return self.assess(context, answers)[0]

    def assess(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What `score` gives (B,), and whether greedy decoding would write the same (B,)."""
        ids = [self.tokens(one) if isinstance(one, str) else list(one) for one in answers]
        if len(ids) != context.batch or not all(ids):
            raise ValueError(f"need {context.batch} answers of at least one token, got {answers!r}")
        self._holding.check_length(context.length, torch.tensor([len(row) for row in ids]))
        rows, last = self._holding.of(context), cast(list[int], context.last.tolist())
        found = score_rows(self._holding, rows, last, ids)
        nats = torch.tensor([-sum(token.logprob for token in row) for row in found])
        if not bool(nats.isfinite().all()):
            raise not_finite(*self.inner.whose)
        return nats, torch.tensor([all(token.rank == 1 for token in row) for row in found])
