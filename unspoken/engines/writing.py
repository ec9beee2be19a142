"""Rows that an engine writes: where each ends, and its words as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unspoken.backbone import Backbone
from unspoken.backbone.generation import Row as HowToWrite
from unspoken.cancelling import is_cancelled
from unspoken.engines.engine import Asked, Engine
from unspoken.types import Finish, Settings

__all__ = ["Writing", "sampling_of", "write_all"]


def sampling_of(settings: Settings, seed: int, ends: Sequence[int]) -> dict[str, Any]:
    """Settings as vLLM takes them. Draws are vLLM's own, by a generator for each row."""
    hot = settings.temperature > 0
    return {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p if hot else 1.0,
        "seed": seed if hot else None,
        "stop_token_ids": list(ends),
        "ignore_eos": True,  # `ends` are all tokens that end an answer
    }


class Writing:
    """A row that is being written.

    ids: its tokens up to its end. finish: how it ended, "" as long as it has not.
    """

    def __init__(self, words: Backbone, row: HowToWrite, asked: Asked) -> None:
        self.row, self.asked = row, asked
        self.stop, self.teller = words.stop_strings(row), words.teller(row)
        self.ids: list[int] = []
        self.finish: Finish | None = None

    def look(self) -> None:
        """Take what was written since."""
        finish, new = self.asked.finish, self.asked.written[len(self.ids) :]
        for token in new if self.finish is None else ():
            self.ids.append(token)
            if self.teller is not None:
                self.teller.put(token)
            if self.stop.found(self.ids):
                return self.end("stop")
        if self.finish is None and finish:
            self.end("length" if finish == "length" else "stop")

    def end(self, finish: Finish) -> None:
        self.finish = finish
        if self.teller is not None:
            self.teller.end()


def write_all(engine: Engine, rows: Sequence[Writing]) -> None:
    """Let the engine write rows until each has ended, or the run is cancelled."""

    def watch() -> None:
        for one in rows:
            one.look()
            if one.finish is None and is_cancelled():
                one.end("cancelled")
        engine.drop([one.asked for one in rows if one.finish and not one.asked.over])

    engine.answer([one.asked for one in rows], watch)
