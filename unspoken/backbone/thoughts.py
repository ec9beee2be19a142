"""The thoughts that a model writes before its answer, and the marks around them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Thoughts", "Told", "thoughts_of"]

_KNOWN = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""Qwen 3, DeepSeek and many others; Magistral; Command A; Seed; Gemma 4; gpt-oss."""


class Told(NamedTuple):
    """What was written: the thoughts, None for none, and the answer after them."""

    reasoning: str | None
    answer: str


class Thoughts(NamedTuple):
    """The marks before and after a model's thoughts."""

    open: str
    close: str

    def begun(self, read: str) -> bool:
        """Whether a prompt ends within thoughts, as some chat templates do."""
        return read.rstrip().endswith(self.open.rstrip())

    def split(self, written: str, *, begun: bool) -> Told:
        """Thoughts and answer, with the marks left out.

        begun: whether the prompt has opened the thoughts. Thoughts that do not end have no answer.
        """
        before, opened, after = written.partition(self.open)
        if opened and not before.strip():
            begun, written = True, after
        thoughts, closed, answer = written.partition(self.close)
        if not (begun or closed):
            return Told(None, written)
        return Told(thoughts.strip(), answer.lstrip())

    def may_open(self, written: str) -> bool:
        """Whether what was written so far may yet become the mark before thoughts."""
        return self.open.startswith(written.lstrip())


def thoughts_of(tokenizer: Any, template: str) -> Thoughts | None:
    """The marks of a model's thoughts, None if its tokenizer and chat template have none.

    transformers keeps them in the tokenizer's `response_template` where there is one.
    """
    stated: Any = getattr(tokenizer, "response_template", None) or {}
    field: Any = stated.get("fields", {}).get("reasoning_content", {})
    if isinstance(field.get("open"), str) and isinstance(field.get("close"), str):
        return Thoughts(field["open"], field["close"])
    return next(
        (Thoughts(*pair) for pair in _KNOWN if any(mark in template for mark in pair)), None
    )
