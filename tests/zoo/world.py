"""One tiny model twice: inside unspoken, and beside it driven by plain transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unspoken.agents import Agent, Incoming, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel
from unspoken.channels.sender_state import SenderState
from unspoken.pipeline import Edge, Pipeline
from unspoken.testing import _tokenizer, tiny_backbone
from unspoken.types import Context, Prompt, Settings, Text, Words
from unspoken.wire import Message

from .plain import Plain

__all__ = [
    "CHANGED",
    "CONTEXT",
    "OTHER",
    "QUESTION",
    "SETTINGS",
    "Differs",
    "Pair",
    "World",
    "close",
    "item",
    "must",
    "small",
]

CONTEXT = "Ada keeps the green key in a drawer by the window."
CHANGED = CONTEXT.replace("drawer", "basket")
OTHER = "Bob hides the small box on a shelf in his kitchen!"
QUESTION = "Q: Where does she keep it?\nA:"
ANSWER = " in the attic"
SETTINGS = Settings(max_tokens=5)

_LOWEST = 16
"""Token ids below this are those of a proof on the model, not of words."""


class Differs(AssertionError):
    """What unspoken does is not what is right."""


def must(right: bool, message: str) -> None:
    """Raise `Differs` with a message unless something is right."""
    if not right:
        raise Differs(message)


def close(got: Tensor, want: Tensor, what: str) -> None:
    """Raise `Differs` if two tensors differ by more than rounding."""
    must(got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}")
    off = (got.float() - want.float()).abs() / (1 + want.float().abs())
    worst = float(off.max()) if off.numel() else 0.0
    must(worst <= 1e-3, f"{what}: off by {worst:.2g}")


class World:
    """spoil: whether a fault is put into what unspoken does, for the twin of a cell.

    words: forward passes over words since a cell began. note: what a cell has to tell.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name, self.plain = name, Plain(deepcopy(model))
        self.tokenizer = _tokenizer(bos=False)
        self.words, self.spoil, self.note = 0, False, ""
        model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.model = Backbone(model.eval().requires_grad_(False), self.tokenizer, name=name)
        self.answer = self.ids(ANSWER)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        self.words += ids is None or int(ids.max()) >= _LOWEST

    def ids(self, words: str) -> list[int]:
        return self.tokenizer(words, add_special_tokens=False)["input_ids"]

    def either(self, right: str, wrong: str) -> str:
        """What unspoken gets to read: the right words, or in the twin wrong ones."""
        return wrong if self.spoil else right

    # -- what unspoken does ------------------------------------------------------------------------

    def read(self, *words: str) -> Context:
        return self.model.read(Prompt((Text(words),))).context

    def agent(
        self, name: str, template: str, *, message: str = "{message}", lead: str = ""
    ) -> Agent:
        role = Role(lead, template, message, chat=False)
        return Agent(name, self.model, role=role, settings=SETTINGS)

    def pair(
        self,
        channel: Channel,
        *,
        template: str = "{messages}{question}",
        message: str = "{message}",
    ) -> Pair:
        """This model sends its context over a channel to itself."""
        reader = self.agent("reader", template, message=message)
        return Pair(channel, self.agent("scribe", "{context}"), reader)

    @contextmanager
    def writing(self) -> Iterator[list[tuple[Context, Words]]]:
        """What is written within it, and after what."""
        log: list[tuple[Context, Words]] = []

        def write(context: Context, *args: Any) -> Words:
            words = type(self.model).write(self.model, context, *args)
            log.append((context, words))
            return words

        self.model.write = write
        try:
            yield log
        finally:
            del self.model.write

    # -- what is right -----------------------------------------------------------------------------

    def rows(self, ids: Sequence[int]) -> Tensor:
        """(A + 1, V): logits after a prompt, and after each token of the answer.

        Only the first of them for a model whose one pass over both lets a token see what follows,
        as some with sparse attention do.
        """
        together = self.plain.logits([*ids, *self.answer])[len(ids) - 1 :]
        each = range(len(self.answer))
        alone = torch.cat([self.plain.logits([*ids, *self.answer[:n]])[-1:] for n in each])
        off = (together[:-1] - alone).abs().max()
        return together if off <= 1e-4 * (1 + alone.abs().max()) else alone[:1]

    def agree(self, context: Context, rows: Tensor, what: str = "", row: int = 0) -> None:
        """Raise `Differs` unless what comes next, and its score, are those of `rows`."""
        likely = rows.log_softmax(-1)
        got = self.model.predict(context)[row].log_softmax(-1)
        close(got, likely[0], f"{what} next token".strip())
        if len(rows) == 1:
            self.note = "its passes are not causal, so no score is right"
            return
        nll = -likely[:-1].gather(1, torch.tensor(self.answer)[:, None]).sum()
        score = self.model.score(context, [ANSWER] * context.batch)[row]
        close(score, nll, f"{what} score".strip())

    def writes(self, words: Words, ids: Sequence[int], what: str = "", row: int = 0) -> None:
        """Raise `Differs` unless these words are what plain `generate` writes.

        Where `generate` contradicts the model's own passes, what those find most likely will do.
        """
        want, got = self.plain.generate(ids, SETTINGS.max_tokens), list(words.ids[row])
        if got != want and got == self.plain.likeliest(ids, SETTINGS.max_tokens):
            self.note = f"plain generate wrote {want}, but plain passes find {got} most likely"
            return
        must(got == want, f"{what} wrote {got}, not {want}".strip())


def item(context: str = CONTEXT, question: str = QUESTION) -> dict[str, tuple[str, ...]]:
    return {"context": (context,), "question": (question,)}


@dataclass
class Pair:
    """A sender, a receiver, and a pipeline of both, which refuses what does not fit."""

    channel: Channel
    sender: Agent
    receiver: Agent

    def __post_init__(self) -> None:
        edge = Edge(self.sender.name, self.receiver.name, self.channel)
        self.pipeline = Pipeline([self.sender, self.receiver], [edge])

    def state(self, context: str = CONTEXT) -> SenderState:
        return self.sender.compute(item(context), needs=self.channel.needs)[0]

    def message(self, context: str = CONTEXT) -> Message:
        query = {"context": context, "question": QUESTION}
        return self.pipeline.incoming([query])[0].message

    def read(self, message: Message, context: str = CONTEXT) -> Context:
        arrival = [Incoming(self.channel, message)]
        return self.receiver.read(item(context), arrival).context

    def run(self, context: str) -> str:
        """The answer to the question, the sender having read this context."""
        query, given = ({"context": c, "question": QUESTION} for c in (CONTEXT, context))
        return self.pipeline.run_many([query], elsewhere=[given])[0].answer


_SMALL: list[Backbone] = []


def small() -> Backbone:
    """The tiny llama with which every family talks."""
    if not _SMALL:
        _SMALL.append(tiny_backbone("llama"))
    return _SMALL[0]
