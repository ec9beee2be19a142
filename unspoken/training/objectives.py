"""What a projector is trained for: the receiver's answers, and before that its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from unspoken.agents import Agent, Incoming
from unspoken.channels import Channel, TextChannel
from unspoken.channels.sender_state import SenderState
from unspoken.errors import TrainingError
from unspoken.pipeline import Query, fields_of
from unspoken.projectors import EmbeddingProjector
from unspoken.projectors.alignment import align, mean_embeddings, shared_vocabulary
from unspoken.protocols import Tabled, fillable
from unspoken.training.stored_states import StoredStates
from unspoken.types import Vectors

__all__ = ["Answers", "Matching", "Reconstruction"]


class Answers:
    """-log p(answer | message, question) through the receiver, mean over rows, in nats.

    Planner and Executor (arXiv 2510.15244). The receiver reads as it does in use. Without
    a channel it receives nothing. The last `validation` rows are never trained on. each: called
    with the number of every step.
    """

    def __init__(
        self,
        receiver: Agent,
        channel: Channel | None,
        sender_states: Callable[[Sequence[int]], SenderState],
        queries: Sequence[Query],
        answers: Sequence[str],
        *,
        validation: int,
        each: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.receiver, self.channel, self.sender_states, self.each = (
            receiver,
            channel,
            sender_states,
            each,
        )
        self.queries, self.answers = queries, answers
        self.size = len(queries) - validation

    def length(self, row: int) -> int:
        return _length(self.queries[row])

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        self.each(step)
        return self._score(rows).mean()

    def validate(self, batch: int = 32) -> float:
        rows = sorted(range(self.size, len(self.queries)), key=self.length)
        scores = [self._score(rows[n : n + batch]) for n in range(0, len(rows), batch)]
        return float(torch.cat(scores).mean())

    def _score(self, rows: Sequence[int]) -> Tensor:
        incoming: list[Incoming] = []
        if self.channel is not None:
            incoming.append(Incoming(self.channel, self.channel.send(self.sender_states(rows))))
        fields = fields_of([self.queries[row] for row in rows])
        read = self.receiver.read(fields, incoming)
        return self.receiver.model.score(read.context, [self.answers[row] for row in rows])


class Matching:
    """KL(receiver that has read the words || receiver that gets the message), in nats a token.

    Both go on with the same words, and at each of these the second learns to expect what the first
    expects. The first has the sender's text word for word. continuations: for each query the words
    that both go on with, one or several; each step takes another of them. `most` is how many tokens
    of one count. The last `validation` rows are never trained on.
    """

    def __init__(
        self,
        receiver: Agent,
        channel: Channel,
        sender_states: Callable[[Sequence[int]], SenderState],
        queries: Sequence[Query],
        continuations: Sequence[Sequence[str]],
        *,
        validation: int,
        most: int = 48,
    ) -> None:
        self.receiver, self.channel, self.sender_states = receiver, channel, sender_states
        self.model = fillable(receiver.model, "what is matched continues")
        self.queries, self.continuations = queries, continuations
        self.size, self.most = len(queries) - validation, most

    def length(self, row: int) -> int:
        return _length(self.queries[row])

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        return self._divergence(rows, step)

    def validate(self, batch: int = 16) -> float:
        rows = sorted(range(self.size, len(self.queries)), key=self.length)
        parts = [rows[n : n + batch] for n in range(0, len(rows), batch)]
        found = [self._divergence(part, 0) * len(part) for part in parts]
        return float(torch.stack(found).sum() / len(rows))

    def _divergence(self, rows: Sequence[int], step: int) -> Tensor:
        state = self.sender_states(rows)
        fields = fields_of([self.queries[row] for row in rows])
        words = [self._ids(self.continuations[row], row + step) for row in rows]

        def expected(channel: Channel) -> tuple[Tensor, Tensor]:
            read = self.receiver.read(fields, [Incoming(channel, channel.send(state))])
            logits, ids = self.model.logits(read.context, words)
            return logits[ids >= 0].float().log_softmax(-1), ids

        with torch.no_grad():
            wanted, ids = expected(TextChannel(verbatim=True))
        found, _ = expected(self.channel)
        return kl_div(found, wanted, reduction="sum", log_target=True) / (ids >= 0).sum()

    def _ids(self, choices: Sequence[str], number: int) -> list[int]:
        return self.model.tokens(choices[number % len(choices)])[: self.most]


class Reconstruction:
    """Sender states to the receiver's word embeddings: a warm-up without a receiver forward pass.

    loss = |f(h) - e|^2 / var(e) + weight * cross-entropy of the word among random ones, by squared
    distance. A sender token's target e is the mean embedding of the receiver's tokens that end in
    it. When the projector reads layer 0 alone, words that both vocabularies know are drawn too.
    """

    negatives = 1024
    weight = 0.1

    def __init__(
        self,
        projector: EmbeddingProjector,
        sender_states: StoredStates,
        sender: Tabled,
        receiver: Tabled,
        *,
        validation: int,
    ) -> None:
        self.projector, self.sender_states = projector, sender_states
        self.sender, self.receiver = sender, receiver
        self.size = len(sender_states) - validation
        aligned = (align(text, sender, receiver) for text in sender_states.texts)
        self.pairs = [(place.to(sender.device), word.to(sender.device)) for place, word in aligned]
        if not any(len(place) for place, _ in self.pairs):
            raise TrainingError(
                f"no word of the {len(sender_states)} texts of {sender.spec.name!r} has a place "
                "among its states, so there is nothing to warm up on. Set warmup.steps=0"
            )
        self.table = receiver.table
        self.variance = self.table.var(0).sum()
        bare = projector.layers == (0,)
        known = shared_vocabulary(sender, receiver) if bare else ()
        self.vocabulary = torch.tensor(known, device=sender.device).view(2, -1)

    def length(self, row: int) -> int:
        return len(self.sender_states.texts[row])

    def loss(self, rows: Sequence[int], step: int) -> Tensor:
        rng = torch.Generator().manual_seed(step)
        states, targets, words = self._text(rows)
        if self.vocabulary.shape[1]:
            drawn = torch.randint(self.vocabulary.shape[1], (len(words) // 2,), generator=rng)
            ours, theirs = self.vocabulary[:, drawn]
            states = torch.cat((states, self.sender.embed(ours)[:, None]))
            targets = torch.cat((targets, self.table[theirs]))
            words = torch.cat((words, theirs))
        return self._loss(states, targets, words, rng)

    def validate(self) -> float:
        rows = range(self.size, len(self.sender_states))
        return float(self._loss(*self._text(rows), torch.Generator().manual_seed(0)))

    def _text(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """States (n, N, W) of aligned positions, their targets (n, W'), and word ids or -1."""
        hidden = self.sender_states.states(rows)
        states: list[Tensor] = []
        targets: list[Tensor] = []
        words: list[Tensor] = []
        for values, mask, row in zip(hidden.values, hidden.mask, rows, strict=True):
            place, token = self.pairs[row]
            real = values[mask]
            count, mean = mean_embeddings(place, token, len(real), self.table)
            word = torch.full_like(count, -1).scatter(0, place, token)
            states.append(real[count > 0])
            targets.append(mean[count > 0])
            words.append(word.masked_fill(count != 1, -1)[count > 0])
        return torch.cat(states), torch.cat(targets), torch.cat(words)

    def _loss(self, states: Tensor, targets: Tensor, words: Tensor, rng: torch.Generator) -> Tensor:
        mask = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
        guess = self.projector(Vectors(states[None], mask)).values[0].float()
        error = (guess - targets).square().sum() / max(1, len(guess)) / self.variance
        single = words >= 0
        random = torch.randint(len(self.table), (self.negatives,), generator=rng)
        choices = torch.cat((words[single], random.to(words.device)))
        choices = cast(Tensor, choices.unique())
        rivals = self.table[choices]
        logits = 2 * guess[single] @ rivals.T - rivals.square().sum(1)
        named = torch.searchsorted(choices, words[single])
        # Without one word that is one token in both, or without one place, a mean would be nan.
        surprise = cross_entropy(logits, named, reduction="sum") / max(1, len(named))
        return error + self.weight * surprise


def _length(query: Query) -> int:
    return len(query) if isinstance(query, str) else sum(map(len, query.values()))
