"""The thoughts that a model writes before its answer, and the marks around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["State", "Thoughts", "Told", "thoughts_of"]

_BETWEEN = ("<|end|>", "<|start|>assistant", "<|channel|>commentary<|message|>")
"""What gpt-oss writes between its thoughts."""

State = Literal["none", "open", "closed"]


_KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Qwen 3, DeepSeek and many others; Magistral; Command A; Seed; Gemma 4; gpt-oss."""


class Told(NamedTuple):
    """What was written: the thoughts, None for none, and the answer after them."""

    reasoning: str | None
    answer: str


class Thoughts(NamedTuple):
    """The marks before and after a model's thoughts. token: whether each is one token."""

    open: str
    close: str
    token: bool = False

    def state(self, words: str, ends: Sequence[int]) -> State:
        """Whether a prompt ends within thoughts, or after them, as some chat templates do.

        ends: where its tokens end in the words. A mark that was spelled, as one in a question is,
        does not count.
        """
        read = words.rstrip()
        for state, mark in _STATES:
            sign = getattr(self, mark).rstrip()
            begin, end = len(read) - len(sign), len(read)
            spelled = self.token and any(begin < at < end for at in ends)
            if read.endswith(sign) and not spelled:
                return state
        return "none"

    def split(self, written: str, state: State = "none") -> Told:
        """Thoughts and answer, with the marks left out.

        state: that of the prompt. Thoughts that do not end have no answer. What comes before a mark
        that ends them is a thought too if none has begun them, but for a prompt that ended them.
        """
        thoughts, answers = list[str](), list[str]()
        omitted = state == "none" and self.close in written.partition(self.open)[0]
        rest, thinking = written, omitted or state == "open"
        while rest:
            part, mark, rest = rest.partition(self.close if thinking else self.open)
            (thoughts if thinking else answers).append(part)
            thinking = thinking ^ bool(mark)
        answer = "".join(answers)
        if not thoughts and not (state == "open" or self.open in written):
            return Told(None, answer)
        told = "\n".join(filter(None, map(_cleaned, thoughts)))
        return Told(told or (None if omitted else ""), answer.lstrip())

    def settled(self, written: str) -> str:
        """What was written, without an end that may become the mark before thoughts."""
        ends = (n for n in range(len(self.open) - 1, 0, -1) if written.endswith(self.open[:n]))
        return written[: len(written) - next(ends, 0)]


_STATES: tuple[tuple[State, str], ...] = (("open", "open"), ("closed", "close"))


def _cleaned(thought: str) -> str:
    for mark in _BETWEEN:
        thought = thought.replace(mark, "")
    return thought.strip()


def thoughts_of(tokenizer: Any, template: str) -> Thoughts | None:
    """The marks of a model's thoughts, None if its tokenizer and chat template have none.

    transformers keeps them in the tokenizer's `response_template` where there is one.
    """
    stated: Any = getattr(tokenizer, "response_template", None) or {}
    field: Any = stated.get("fields", {}).get("reasoning_content", {})
    if isinstance(field.get("open"), str) and isinstance(field.get("close"), str):
        return _marks(tokenizer, field["open"], field["close"])
    found = (pair for pair in _KNOWN if any(mark in template for mark in pair))
    return next((_marks(tokenizer, *pair) for pair in found), None)


def _marks(tokenizer: Any, open_: str, close: str) -> Thoughts:
    return Thoughts(open_, close, token=open_ in tokenizer.get_added_vocab())
