"""Stop strings: whether a row has written one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["StopStrings"]


class StopStrings:
    """The strings that end one row, in what it wrote with special tokens or without them.

    answer: what counts of the tokens written so far, without thoughts.
    """

    def __init__(
        self,
        stop: Sequence[str],
        tokenizer: Any,
        answer: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self.stop, self.tokenizer, self.answer = stop, tokenizer, answer
        # How many tokens to decode: each has a byte or more.
        self.reach = max((len(one.encode()) for one in stop), default=0) + 4
        self.special: list[str] = tokenizer.all_special_tokens if stop else []

    def found(self, written: Sequence[int]) -> bool:
        """Whether one of them is in the end of what was written."""
        if not self.stop:
            return False
        if self.answer is None:
            tail: str = self.tokenizer.decode(written[-self.reach :])
        else:
            tail = self.answer(written)
        plain = tail
        for token in self.special:
            plain = plain.replace(token, "")
        return any(one in text for one in self.stop for text in (tail, plain))
