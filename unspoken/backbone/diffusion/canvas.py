"""Models that write a whole canvas instead of one word after another."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from unspoken.backbone.caches import counts
from unspoken.backbone.diffusion.sampling import Draft
from unspoken.backbone.diffusion.watching import Frame, watched
from unspoken.backbone.generation import cut
from unspoken.backbone.model import LanguageModel
from unspoken.cancelling import is_cancelled
from unspoken.errors import ContextTooLong, IncompatibleModels
from unspoken.layout import Chunk, lay_out
from unspoken.types import (
    TEXT,
    CacheSegment,
    Context,
    Denoising,
    Finish,
    KVCache,
    Need,
    OnText,
    Prompt,
    Read,
    Segment,
    Settings,
    Text,
    Vectors,
    Words,
    counted,
    left_pad,
)

__all__ = ["CanvasModel", "Laid", "denoising"]

_CANNOT = "{name!r} is a diffusion model and {what}. Use a causal model, or the channel {other}"


@dataclass(frozen=True, slots=True, eq=False)
class Laid(Context):
    """A prompt that is laid out and not read yet. A diffusion model reads it in every step.

    The cache is empty. run: the tokens and vectors, (B, S). layers: those whose states are wanted
    of what will be written.
    """

    run: Chunk = field(kw_only=True)
    layers: tuple[int, ...] = ()


def denoising(settings: Settings) -> Denoising:
    """The settings of a canvas. What plain settings do not say has its default."""
    return settings if isinstance(settings, Denoising) else Denoising(**asdict(settings))


class CanvasModel(LanguageModel):
    """A model without a cache: `read` lays the prompt out, and `write` fills a canvas after it.

    Hidden states are those that its words are predicted from, up to and with the first end (the
    authors of Planner and Executor, arXiv 2510.15244, send the whole canvas). Both come from the
    same canvas, so words and states of one turn cost one denoising.
    """

    ends: tuple[int, ...]
    """Token ids that end what is written."""

    @abstractmethod
    def _denoise(self, laid: Laid, settings: Denoising) -> Draft:
        """A canvas after a prompt, (B, `settings.max_tokens`), and the states that are wanted."""

    def read(self, prompt: Prompt, *, needs: frozenset[Need] = frozenset({TEXT})) -> Read:
        """Lay a prompt of B rows out, without a forward pass.

        A shared opening is laid out as any text. Raises `EmptyPrompt`, `ContextTooLong` and
        `IncompatibleModels`.
        """
        if odd := sorted({need.kind for need in needs} - {*self.facts.gives}):
            kept = {"cache": "keeps no cache", "rollout": "does not go on from a cache"}
            raise IncompatibleModels(self._refusal(kept.get(odd[0], f"gives no {odd[0]}")))
        for segment in prompt.segments:
            self._check_segment(segment)
        apart = (replace(s, shared=False) if isinstance(s, Text) else s for s in prompt.segments)
        whole = replace(prompt, segments=tuple(apart))
        (run,) = lay_out(whole, self.encode, self._before, self.device)
        assert isinstance(run, Chunk)
        self._check_room(run.mask, 0)
        layers = tuple(sorted(need.layer for need in needs if need.kind == "hidden"))
        laid = Laid(
            KVCache(()),
            run.mask,
            run.ids[:, -1],
            run.spelling,
            counted(run.mask),
            run=run,
            layers=layers,
        )
        return Read(tokens=counts([run.mask], prompt.batch), passes=0, found=laid)

    @property
    def _before(self) -> Sequence[int]:
        """The ids in front of a prompt."""
        return self._bos

    def _check_segment(self, segment: Segment) -> None:
        if isinstance(segment, CacheSegment):
            raise IncompatibleModels(self._refusal("reads no cache"))
        if isinstance(segment, Vectors) and "vectors" not in self.facts.takes:
            raise IncompatibleModels(self._refusal("reads token ids, no vectors", "'text'"))
        if isinstance(segment, Vectors) and segment.values.shape[-1] != self.facts.width:
            raise IncompatibleModels(
                f"the vectors are {segment.values.shape[-1]} wide, but {self.name!r} embeds "
                f"{self.facts.width}. Project them into its space first"
            )

    def _refusal(self, what: str, other: str = "'text' or 'embedding'") -> str:
        return _CANNOT.format(name=self.name, what=what, other=other)

    def _check_room(self, mask: Tensor, count: int) -> None:
        longest, limit = int(mask.sum(1).max()), self.facts.positions
        if limit is not None and longest + count > limit:
            raise ContextTooLong(
                f"a prompt of {longest} positions and a canvas of {count} exceed the {limit} of "
                f"{self.name!r}. Shorten the prompt or lower max_tokens"
            )

    @torch.no_grad()
    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        """Fill a canvas of `settings.max_tokens` after each row of a prompt, see `Denoising`.

        Plain `Settings` are those of `Denoising` by default. on_text is called once for each row,
        with all its words. `watching` sees the canvas as it changes. Raises `ContextTooLong`.
        """
        start, laid, plan = perf_counter(), self._laid(context), denoising(settings)
        self._check_room(laid.mask, plan.max_tokens)
        draft = self._denoise(laid, plan)
        rows: list[list[int]] = draft.ids.tolist()
        lengths = [self._length(row, plan.stop) for row in rows]
        ids = [tuple(row[:n]) for row, n in zip(rows, lengths, strict=True)]
        words = [
            cut(self.tokenizer.decode(row, skip_special_tokens=True), plan.stop) for row in ids
        ]
        if on_text is not None:
            for n, row in enumerate(words):
                on_text(n, row)
        return Words(
            tuple(words),
            tuple(lengths),
            draft.passes,
            ids=tuple(ids),
            wait=perf_counter() - start,
            hidden={layer: _written(draft.states[layer], lengths) for layer in laid.layers},
            finish=tuple(self._finish(row, plan.stop) for row in ids),
        )

    def _finish(self, ids: Sequence[int], stop: Sequence[str]) -> Finish:
        ended = ids[-1] in self.ends or any(one in self.tokenizer.decode(ids) for one in stop)
        return "stop" if ended else "cancelled" if is_cancelled() else "length"

    def _laid(self, context: Context) -> Laid:
        if not isinstance(context, Laid):
            raise IncompatibleModels(self._refusal("cannot go on from another model's context"))
        return context

    def _length(self, ids: Sequence[int], stop: Sequence[str]) -> int:
        """The number of tokens that are written: up to the first end or whole stop string."""
        end = next((n + 1 for n, token in enumerate(ids) if token in self.ends), len(ids))

        def stopped(count: int) -> bool:
            return any(s in self.tokenizer.decode(ids[:count]) for s in stop)

        return bisect_left(range(end), True, key=stopped) if stop and stopped(end) else end

    def show(self, canvas: Tensor, new: Tensor, masked: Tensor, step: int, steps: int) -> None:
        """Pass the first row of a canvas (B, n) to the function that is watching."""
        tell = watched()
        if tell is not None:
            ids, hidden = canvas[0].tolist(), masked[0].tolist()
            words = (
                None if open_ else self.tokenizer.decode([token])
                for token, open_ in zip(ids, hidden, strict=True)
            )
            tell(Frame(self.name, tuple(words), tuple(new[0].tolist()), step, steps))


def _written(states: Tensor, lengths: Sequence[int]) -> Vectors:
    """The states (B, n, W) of what was written, padded left."""
    return Vectors(*left_pad([row[:n] for row, n in zip(states, lengths, strict=True)]))
