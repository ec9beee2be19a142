"""How likely a model finds what comes next: answers, and the next token."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from unspoken.backbone.caches import fresh_cache
from unspoken.backbone.rereading import Rereading, TokenCache
from unspoken.types import Context, counted

__all__ = ["Scoring"]


class Scoring(Rereading):
    """A model that scores answers from a context. It computes logits only at their positions."""

    def score(self, context: Context, answers: Sequence[str | Sequence[int]]) -> Tensor:
        """Negative log-likelihood (B,) in nats of each row's answer. Differentiable.

        answers: words, or tokens as they were written. Only the answer's positions go through the
        vocabulary. Raises `ContextTooLong` if they do not fit after the context.
        """
        logits, padded = self.logits(context, answers)
        return self._nats(logits, padded)

    @torch.no_grad()
    def assess(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """What `score` gives (B,), and whether greedy decoding would write the same (B,)."""
        logits, padded = self.logits(context, answers)
        return self._nats(logits, padded), ((logits.argmax(-1) == padded) | (padded < 0)).all(1)

    def _nats(self, logits: Tensor, padded: Tensor) -> Tensor:
        """Negative log-likelihood (B,). Training looks at its loss itself, before it steps."""
        nats = _losses(logits, padded).sum(1)
        if not nats.requires_grad:
            self._check_numbers(nats)
        return nats

    def logits(
        self, context: Context, answers: Sequence[str | Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, N, V) of the tokens of each answer, and these (B, N), padded with -100.

        Differentiable. answers as in `score`.
        """
        rows = self._answers(context, answers)
        padded = pad_sequence(rows, batch_first=True, padding_value=-100)
        reread = isinstance(context.cache, TokenCache)
        known = (padded[:, 1:] >= 0).sum(1)  # the last token is not read
        self.check_room(context.length, known, whole=not reread, task="score")
        if isinstance(context.cache, TokenCache):
            return self.relook(context.cache, [row[:-1] for row in rows]), padded
        inputs = torch.cat((context.last[:, None], padded[:, :-1]), 1)
        real = torch.cat((context.mask[:, -1:], padded[:, :-1] >= 0), 1)
        with self.seeing(context.seen):
            logits = self.model(
                input_ids=inputs.clamp(min=0),
                attention_mask=torch.cat((context.mask[:, :-1], real), 1).long(),
                position_ids=self.begin + context.positions[:, -1:] + counted(real),
                past_key_values=fresh_cache(context.kv),
                use_cache=True,
            ).logits
        return logits, padded

    def _answers(self, context: Context, answers: Sequence[str | Sequence[int]]) -> list[Tensor]:
        """The tokens of each row's answer."""
        ids = [self.tokens(one) if isinstance(one, str) else list(one) for one in answers]
        rows = [torch.tensor(row, device=self.device) for row in ids]
        if len(rows) != context.batch or not all(row.numel() for row in rows):
            raise ValueError(f"need {context.batch} answers of at least one token, got {answers!r}")
        return rows

    @torch.no_grad()
    def predict(self, context: Context) -> Tensor:
        """Logits (B, V) of the next token in each row."""
        if isinstance(context.cache, TokenCache):
            logits = self.relook(context.cache, [context.last[:0]] * context.batch)[:, 0]
        else:
            with self.seeing(context.seen):
                logits = self.next_logits(context)
        self._check_words(logits)
        return logits


def _losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Negative log-likelihood (B, N) of ids (B, N) by logits (B, N, V), 0 where an id is -100.

    The vocabulary stays the last dimension: over another one, torch adds up its probabilities one
    by one, and many thousands of them lose digits.
    """
    rows = logits.float().flatten(0, 1)
    loss = cross_entropy(rows, ids.flatten(), ignore_index=-100, reduction="none")
    return loss.view_as(ids)
