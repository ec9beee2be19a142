"""Soft words: the embeddings that the sender expects, in place of the words it would choose.

CIPHER, arXiv 2310.06272: e_t = sum_v softmax(logits_t / T)_v * embedding_v, and e_t is also the
sender's next input.
"""

from __future__ import annotations

from typing import ClassVar

from unspoken.channels.base import Channel, check_identities, check_widths, remedy
from unspoken.channels.handoff import check_same
from unspoken.channels.sender_state import SenderState
from unspoken.errors import require
from unspoken.projectors import VocabularyMixing
from unspoken.protocols import Model, rolls_out
from unspoken.types import Need, Prompt, Spec, Vectors, is_above_0, is_count
from unspoken.wire import Message

__all__ = ["SoftWords"]


class SoftWords(Channel):
    """Expected embeddings (B, m, W) that the sender writes, m as long as its words would be.

    The receiver has the same weights, or `projector` mixes the receiver's embeddings over the
    words that both vocabularies know. A row ends where its most probable words would.

    temperature: T. Towards 0 the vectors become the embeddings of greedy words. limit: the most
    vectors, the agent's `max_tokens` without it. projector: a `VocabularyMixing` or the folder of
    one. Its temperature is then that of what is sent.
    """

    name: ClassVar[str] = "soft"
    carries = (Vectors,)

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        limit: int | None = None,
        projector: VocabularyMixing | str | None = None,
    ) -> None:
        require(is_above_0(temperature), "temperature", temperature, "a number above 0")
        require(limit is None or is_count(limit), "limit", limit, "a number of positions above 0")
        if isinstance(projector, str):
            projector = VocabularyMixing.from_pretrained(projector).eval()
        self.temperature, self.limit, self.projector = temperature, limit, projector

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({self._rollout})

    @property
    def _rollout(self) -> Need:
        return Need("rollout", limit=self.limit, feed="expected", temperature=self.temperature)

    def send(self, state: SenderState) -> Message:
        rollout = state.rollouts[self._rollout]
        if self.projector is None:
            spec = state.spec
            vectors = rollout.vectors
            return self._message(state, vectors, receiver=spec.weights, tokenizer=spec.tokenizer)
        states = Vectors(rollout.states.values[:, :, None], rollout.states.mask)
        target = self.projector.target_weights, self.projector.target_tokenizer
        vectors = self.projector(states)
        return self._message(state, vectors, receiver=target[0], tokenizer=target[1])

    def write(self, message: Message, prompt: Prompt) -> Prompt:
        return prompt.insert(message.payload)

    def check(self, sender: Spec, receiver: Spec) -> None:
        if self.projector is None:
            check_same(self.name, sender, receiver)
            return
        fix = remedy(self.projector, sender, receiver)
        check_widths(self.projector, sender, receiver, fix)
        check_identities(self.projector, sender, receiver, fix)

    def ask(self, sender: Model, receiver: Model) -> None:
        rolls_out(sender, "soft words are written in vectors")
