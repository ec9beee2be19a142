"""Words as they are written: each row's new text, character by character whole."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers.generation.streamers import BaseStreamer

from unspoken.backbone.generation import Likeliest, cut

__all__ = ["Teller", "Tellers"]

_UNFINISHED = "\ufffd"
"""What a tokenizer makes of a character whose other bytes are in the tokens to come."""


class Teller:
    """Passes the answer of one row on as soon as it is settled, up to the first stop string.

    A character that is not whole waits for its next token, and an end that may become a stop string
    waits until it is none. All that was told is the answer. ends and limit: the tokens that end the
    row, and the most that it has. answer: what counts of all that was written so far, and whether
    it is the end, for a model that thinks first.
    """

    def __init__(
        self,
        tokenizer: Any,
        tell: Callable[[str], None],
        *,
        stop: Sequence[str] = (),
        ends: Sequence[int] = (),
        limit: int,
        answer: Callable[[str, bool], str] | None = None,
    ) -> None:
        self.tokenizer, self.tell, self.stop, self.answer = tokenizer, tell, stop, answer
        self.ends, self.limit = ends, limit
        self.ids: list[int] = []
        self.begin = self.end_ = 0  # the tokens that were decoded last
        self.waiting, self.written, self.told = "", "", ""
        self.over = False

    def put(self, token: int) -> None:
        """Take the row's next token. What comes after its end does not count."""
        if self.over:
            return
        self.ids.append(token)
        if token in self.ends or len(self.ids) == self.limit:
            self.end()
        else:
            self._add(self._new_text(), final=False)

    def end(self) -> None:
        """Tell what is left."""
        if not self.over:
            self._add(self._new_text(final=True), final=True)

    def _new_text(self, *, final: bool = False) -> str:
        known, now = (self._decoded(self.ids[self.begin : n]) for n in (self.end_, len(self.ids)))
        if now.endswith(_UNFINISHED) and not final:
            return ""
        self.begin, self.end_ = self.end_, len(self.ids)
        return now[len(known) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.answer is None) if ids else ""

    def _add(self, text: str, *, final: bool) -> None:
        text = self.waiting + (self._new_answer(text, final) if self.answer else text)
        piece = cut(text, self.stop)
        self.over = final or piece != text
        starts = [stop[:n] for stop in self.stop for n in range(1, len(stop))]
        kept = 0 if self.over else max((len(s) for s in starts if piece.endswith(s)), default=0)
        piece, self.waiting = piece[: len(piece) - kept], piece[len(piece) - kept :]
        if piece:
            self.tell(piece)

    def _new_answer(self, text: str, final: bool) -> str:
        assert self.answer is not None
        self.written += text
        answer = self.answer(self.written, final)
        if not answer.startswith(self.told):
            return ""
        new, self.told = answer[len(self.told) :], answer
        return new


class Tellers(BaseStreamer):
    """What `generate` tells of its rows: one teller for each, None where nobody listens."""

    def __init__(self, tellers: Sequence[Teller | None], likeliest: Likeliest) -> None:
        self.tellers, self.likeliest, self.begun = tellers, likeliest, False

    def put(self, value: Any) -> None:
        if not self.begun:  # the prompt comes first
            self.begun = True
            return
        self.likeliest.check()
        for teller, token in zip(self.tellers, value.flatten().tolist(), strict=True):
            if teller is not None:
                teller.put(token)

    def end(self) -> None:
        for teller in self.tellers:
            if teller is not None:
                teller.end()
