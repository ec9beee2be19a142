"""Responses of OpenAI's API: whole, and in chunks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from unspoken.runs import Run
from unspoken.serving.refusals import Refusal

__all__ = ["DONE", "ChatReply", "CompletionReply", "Reply", "encoded", "event_of", "usage_of"]

DONE = b"data: [DONE]\n\n"


def encoded(content: Any) -> bytes:
    """JSON in ASCII, whatever letters it holds."""
    return json.dumps(content).encode()


def event_of(content: Any) -> bytes:
    """A frame of a stream."""
    return b"data: " + encoded(content) + b"\n\n"


def usage_of(run: Run) -> dict[str, Any]:
    """Tokens of all agents. Those that agents wrote for each other are told as reasoning."""
    usage, answer = run.usage, run.turns[-1].usage.written if run.turns else 0
    prompt = usage.read + usage.reused
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.written,
        "total_tokens": prompt + usage.written,
        "prompt_tokens_details": {"cached_tokens": usage.reused},
        "completion_tokens_details": {"reasoning_tokens": usage.written - answer},
    }


def _finish(run: Run) -> str:
    """Why the answer ended. Raises `Refusal` for one that did not."""
    if run.finish not in ("stop", "length"):
        raise Refusal(503, "the answer was given up before its end", code="cancelled")
    return run.finish


@dataclass(frozen=True, slots=True)
class Reply(ABC):
    """The response to one request: its id, when it came, and which model answers."""

    id: str
    created: int
    model: str

    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def whole(self, run: Run, unspoken: dict[str, Any] | None) -> dict[str, Any]:
        """The whole response."""
        choice = self._whole_choice(run.answer) | {"finish_reason": _finish(run)}
        content = self._around(self.whole_kind, [choice]) | {"usage": usage_of(run)}
        return content if unspoken is None else {**content, "unspoken": unspoken}

    @abstractmethod
    def role(self) -> dict[str, Any] | None:
        """The chunk that begins a stream, None for no such chunk."""

    def words(self, words: str) -> dict[str, Any]:
        """A chunk with the next words."""
        return self._chunk(self._words(words))

    def shown(self, frame: dict[str, Any]) -> dict[str, Any]:
        """A chunk without words, which shows what happens. Who does not know it passes it over."""
        return {**self._chunk(self._nothing()), "unspoken": frame}

    def end(self, run: Run) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return self._chunk(self._nothing(), _finish(run))

    def usage(self, run: Run) -> dict[str, Any]:
        """The chunk with what the answer has cost."""
        return {**self._around(self.chunk_kind, []), "usage": usage_of(run)}

    def _chunk(self, part: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish}
        return self._around(self.chunk_kind, [choice])

    def _around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    @abstractmethod
    def _whole_choice(self, answer: str) -> dict[str, Any]: ...

    @abstractmethod
    def _words(self, words: str) -> dict[str, Any]: ...

    @abstractmethod
    def _nothing(self) -> dict[str, Any]: ...


class ChatReply(Reply):
    """The response of /v1/chat/completions."""

    whole_kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def role(self) -> dict[str, Any]:
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def _whole_choice(self, answer: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None}

    def _words(self, words: str) -> dict[str, Any]:
        return {"delta": {"content": words}}

    def _nothing(self) -> dict[str, Any]:
        return {"delta": {}}


class CompletionReply(Reply):
    """The response of /v1/completions."""

    whole_kind = chunk_kind = "text_completion"

    def role(self) -> None:
        return None

    def _whole_choice(self, answer: str) -> dict[str, Any]:
        return {"index": 0, "text": answer, "logprobs": None}

    def _words(self, words: str) -> dict[str, Any]:
        return {"text": words}

    def _nothing(self) -> dict[str, Any]:
        return {"text": ""}
