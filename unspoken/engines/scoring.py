"""How likely an engine finds tokens after what rows hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import NamedTuple

from unspoken.cancelling import stop_if_cancelled
from unspoken.engines.caches import Row
from unspoken.engines.holding import Holding
from unspoken.errors import IncompatibleModels

__all__ = ["SCORING", "Scored", "check_scores", "score_rows"]

SCORING = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False}
"""vLLM's settings for scores. By its default for the second, it would read the placeholders of a
loaded cache as words, and say nothing."""

_FIRST, _READ, _COUNT = 4, 8, 14  # tokens of the check, of which no meaning is needed


class Scored(NamedTuple):
    """A token's log probability, and its rank among all: 1 is what greedy decoding writes."""

    logprob: float
    rank: int


def score_rows(
    holding: Holding, rows: Sequence[Row], last: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[list[Scored]]:
    """The scores of each answer's tokens, after a row and its last token."""
    spelled = [row if row.vectors is None else None for row in rows]
    vectors = [row for row in rows if row.vectors is not None]  # vLLM scores token ids alone
    held = iter(holding.hold(vectors))
    known = [row or Row.of(next(held)) for row in spelled]
    # No block is shared: the last token has to be computed, since its logits are scored.
    asked = [
        replace(holding.asked(row, [end, *answer], SCORING), salt=f"scores {token_hex(8)}")
        for row, end, answer in zip(known, last, answers, strict=True)
    ]
    holding.engine.answer(asked, stop_if_cancelled)
    return [
        [Scored(found[token].logprob, found[token].rank) for found, token in pairs]
        for pairs in (
            zip(one.scores[-len(answer) :], answer, strict=True)
            for one, answer in zip(asked, answers, strict=True)
        )
    ]


def check_scores(holding: Holding) -> None:
    """Compare scores after some tokens with those after their cache, loaded.

    Raises `IncompatibleModels` if they differ.
    """
    ids = list(range(_FIRST, _FIRST + _COUNT))
    read = Row(ids=tuple(ids[:_READ]))
    rows, answer = [read, Row.of(*holding.hold([read]))], ids[_READ + 1 :]
    plain, loaded = score_rows(holding, rows, [ids[_READ]] * 2, [answer] * 2)
    tolerance = 1e-3 if holding.dtype.itemsize == 4 else 0.2
    worst = max(abs(a.logprob - b.logprob) for a, b in zip(plain, loaded, strict=True))
    if not worst <= tolerance:
        raise IncompatibleModels(
            f"after a cache that it loads, the engine of {holding.plain.name!r} scores tokens "
            f"by up to {worst:.2g} nats otherwise than after the same words. Use the version of "
            "vLLM that `make vllm` installs, or a Backbone (engine: transformers)"
        )
