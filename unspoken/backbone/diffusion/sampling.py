"""Filling a canvas of masks: which positions get their word in which step.

LLaDA, arXiv 2502.09992, algorithm 4 and its code. Margin and entropy as in Dream, arXiv 2508.15487;
the threshold of Fast-dLLM, arXiv 2505.22618.
"""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers.generation.logits_process import TopPLogitsWarper

from unspoken.cancelling import is_cancelled
from unspoken.types import Denoising

__all__ = ["Draft", "Guess", "Predict", "budgets", "denoise"]


class Guess(NamedTuple):
    """logits: (B, m, V) of m neighbouring positions. states: layer -> (B, n, W) of all n."""

    logits: Tensor
    states: Mapping[int, Tensor]


Predict = Callable[[Tensor, slice], Guess]
"""Maps a canvas (B, n) and the positions whose words are wanted to the model's guess."""

Tell = Callable[[Tensor, Tensor, int, int], None]
"""Gets each step: the canvas (B, n), what is new in it (B, n), its number, and of how many."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A canvas without masks, ids (B, n). states: layer -> (B, n, W). passes: forward passes."""

    ids: Tensor
    passes: int
    states: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])


def budgets(size: int, settings: Denoising) -> list[int]:
    """The steps of each block of a canvas, in proportion to its positions.

    As many as `settings.steps` in all, unless there are more blocks or fewer positions than steps.

    >>> budgets(64, Denoising(steps=16, block=32))
    [8, 8]
    >>> budgets(10, Denoising(steps=64, block=4))
    [4, 4, 2]
    """
    block = min(settings.block or size, size)
    ends = [min(start + block, size) for start in range(0, size, block)]
    starts = [0, *ends[:-1]]
    steps = min(settings.steps, size)
    return [
        max(1, steps * end // size - steps * start // size)
        for start, end in zip(starts, ends, strict=True)
    ]


@torch.no_grad()
def denoise(
    predict: Predict,
    canvas: Tensor,
    mask: int,
    ends: Sequence[int],
    settings: Denoising,
    tell: Tell = lambda canvas, new, step, steps: None,
) -> Draft:
    """Fill the masks of a canvas (B, n), block by block from the left.

    Rows do not depend on each other, so a row gives the same in a batch as alone. Noise is drawn
    for positions, the same for all rows of one seed. The states of a row are those of the last step
    that changed it. A row that has ended, with no mask before its end, is filled with ends.
    Different from the authors' code, the mask itself is never chosen as a word. Otherwise it could
    stay.
    """
    batch, size = canvas.shape
    budget = torch.tensor(budgets(size, settings), device=canvas.device)
    steps = math.ceil(settings.until * int(budget.sum()))
    block = torch.arange(size, device=canvas.device) // min(settings.block or size, size)
    known = settings.seeds(batch)
    rngs = {seed: torch.Generator().manual_seed(seed) for seed in known}
    taken = torch.zeros(batch, len(budget), dtype=torch.long, device=canvas.device)
    states: dict[int, Tensor] = {}
    step = 0
    while bool((open_ := canvas == mask).any()) and step < steps:
        step += 1
        steps = step if is_cancelled() else steps  # all that is open is filled at once
        active = open_.any(1)
        here = torch.where(open_, block, len(budget)).amin(1).clamp(max=len(budget) - 1)
        now = open_ if step == steps else open_ & (block == here[:, None])
        columns = now.any(0).nonzero()[:, 0]
        window = slice(int(columns[0]), int(columns[-1]) + 1)
        guess = predict(canvas, window)
        noise = _noise([rngs[seed] for seed in known], now, guess.logits.shape[2], settings)
        word, sure, probability = _choose(guess.logits, now, window, mask, settings, noise)
        left = (budget - taken).gather(1, here[:, None]).clamp(min=1)
        count = -(-now.sum(1, keepdim=True) // left)
        keep = now & (_ranks(sure) < (size if step == steps else count))
        if settings.threshold is not None:
            keep = keep | (now & (probability >= settings.threshold))
        taken.scatter_add_(1, here[:, None], active[:, None].long())
        canvas = _closed(torch.where(keep, word, canvas), mask, ends)
        states = {
            layer: torch.where(active[:, None, None], new, states.get(layer, new))
            for layer, new in guess.states.items()
        }
        tell(canvas, open_ & (canvas != mask), step, steps)
    return Draft(canvas, step, states)


class _Noise(NamedTuple):
    """gumbel: (N, V) in float64, or None at temperature 0. order: (N,), None unless random."""

    gumbel: Tensor | None
    order: Tensor | None


def _noise(rngs: Sequence[torch.Generator], now: Tensor, words: int, settings: Denoising) -> _Noise:
    """Noise for the wanted positions (B, n), row by row.

    It is drawn for a whole canvas, whatever is masked, so that rows do not affect each other, and
    once for rows of one generator.
    """
    if settings.temperature == 0 and settings.remask != "random":
        return _Noise(None, None)
    wanted, parts = now.cpu(), dict[int, _Noise]()
    for rng in dict.fromkeys(rngs):
        drawn = _drawn(rng, now.shape[1], words, settings)
        for row in [n for n, one in enumerate(rngs) if one is rng]:
            parts[row] = _Noise(*(one if one is None else one[wanted[row]] for one in drawn))
    gumbel, order = zip(*(parts[row] for row in range(len(rngs))), strict=True)
    return _Noise(_joined(gumbel, now.device), _joined(order, now.device))


def _joined(parts: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found).to(device) if found else None


def _drawn(rng: torch.Generator, size: int, words: int, settings: Denoising) -> _Noise:
    """It is float64 as in LLaDA's code: in float32 the rarest words are never drawn."""
    order = torch.rand(size, generator=rng) if settings.remask == "random" else None
    if settings.temperature == 0:
        return _Noise(None, order)
    uniform = torch.rand(size, words, generator=rng, dtype=torch.float64)
    return _Noise(-torch.log(-torch.log(uniform)), order)


def _choose(
    logits: Tensor, now: Tensor, window: slice, mask: int, settings: Denoising, noise: _Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """For each position its word, how sure it is to be kept, and its probability: three (B, n).

    Only the wanted positions (`now`) go through the softmax. All others are least sure.
    """
    column = now.nonzero()[:, 1]
    found = logits[now[:, window]].float()  # (N, V)
    found[:, mask] = -torch.inf
    if settings.top_p < 1:
        found = TopPLogitsWarper(settings.top_p)(cast(Any, column), found)
    if noise.gumbel is None:
        best = found.argmax(1)
    else:
        best = (found.double() + settings.temperature * noise.gumbel).argmax(1)
    log_p = found.gather(1, best[:, None])[:, 0] - found.logsumexp(1)
    sure = _confidence(found, log_p, settings, noise)
    word = torch.full_like(now, mask, dtype=torch.long)
    kept = torch.full(now.shape, -torch.inf, device=now.device)
    probability = torch.zeros(now.shape, device=now.device)
    word[now], kept[now], probability[now] = best, sure, log_p.exp()
    return word, kept, probability


def _confidence(logits: Tensor, log_p: Tensor, settings: Denoising, noise: _Noise) -> Tensor:
    match settings.remask:
        case "confidence":
            return log_p
        case "margin":
            two = (logits.topk(2).values - logits.logsumexp(1, keepdim=True)).exp()
            return two[:, 0] - two[:, 1]
        case "entropy":
            p = logits.softmax(1)
            return torch.special.xlogy(p, p).sum(1)
        case "random":
            assert noise.order is not None
            return noise.order


def _ranks(sure: Tensor) -> Tensor:
    """The rank of each of (B, n) numbers in its row, largest first, then from left to right."""
    return sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _closed(canvas: Tensor, mask: int, ends: Sequence[int]) -> Tensor:
    """The canvas with ends after the first end of each row, if nothing before it is masked."""
    if not ends:
        return canvas
    masked, known = canvas == mask, torch.tensor(list(ends), device=canvas.device)
    over = torch.isin(canvas, known) & (masked.cumsum(1) == 0)
    return torch.where((over.cumsum(1) > 0) & masked, ends[0], canvas)
