"""Requests of OpenAI's API: which fields they may have, and what each may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from unspoken.serving.refusals import Refusal

__all__ = ["ChatRequest", "CompletionRequest", "Message", "Request", "Wanted", "parsed"]

Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_ANYTHING = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Fields without effect on an answer."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Fields that are not supported, and the values of them that ask for nothing."""

_ECHOED = ("annotations", "reasoning_content", "reasoning", "unspoken")
"""What a client may send back of an answer. It is not read."""

T = TypeVar("T", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class Words(_Part):
    """A part of a message: words alone. What marks it for a cache is not read."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "input_text", "refusal"]
    text: str = ""
    refusal: str = ""
    cache_control: Any = None


class Function(_Part):
    name: str
    arguments: str = ""


class ToolCall(_Part):
    """A call of a tool, which another model has asked for."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Message(_Part):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Words] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def words(self) -> str:
        """Its words, the parts one after the other."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or ()
        return "".join(one.text + one.refusal for one in parts) or self.refusal or ""


class StreamOptions(_Part):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Wanted(_Part):
    """What a request may ask of us besides.

    fields: more of what agents read, by name, with every question: words, or documents by name.
    readings: whether each receiver says what it makes of its messages, which takes its time.
    """

    model_config = ConfigDict(extra="forbid")

    fields: dict[str, str | dict[str, str]] = {}
    readings: bool = False


class Request(_Part):
    """What all requests have. None is what a field says that is left out."""

    model: Annotated[str, StringConstraints(max_length=256)]
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    unspoken: bool | Wanted | None = None

    @property
    def most(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what the answer has cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def fields(self) -> Mapping[str, str | dict[str, str]]:
        return self.unspoken.fields if isinstance(self.unspoken, Wanted) else {}

    @property
    def readings(self) -> bool:
        return isinstance(self.unspoken, Wanted) and self.unspoken.readings

    def check(self) -> None:
        """Raise `Refusal` for what cannot be meant, and for what is not supported."""
        _check_more(self.model_extra or {}, "")
        if "question" in self.fields:
            raise Refusal(
                400,
                "unspoken.fields.question is given, but the last message is the question",
                param="unspoken.fields.question",
            )
        if self.stream_options is not None and not self.stream:
            raise Refusal(
                400, "stream_options are given, but stream is not true", param="stream_options"
            )


class ChatRequest(Request):
    """A body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def most(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    def check(self) -> None:
        super().check()
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Refusal(
                400,
                f"max_tokens is {self.max_tokens} and max_completion_tokens "
                f"{self.max_completion_tokens}, but both mean the same; give one of them",
                param="max_tokens",
            )
        for n, message in enumerate(self.messages):
            more = message.model_extra or {}
            _check_more({k: v for k, v in more.items() if k not in _ECHOED}, f"messages[{n}].")


class CompletionRequest(Request):
    """A body of /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]

    @property
    def question(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


def parsed(kind: type[T], body: bytes) -> T:
    """A request out of JSON. Raises `Refusal`, which names a field that does not fit."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    # Where several kinds are allowed, the one that fits best has gone deepest.
    problem = max(problems, key=lambda one: len(_names(one["loc"])))
    place = _place(problem["loc"])
    message = f"{place}: {problem['msg']}" if place else problem["msg"]
    raise Refusal(400, message, param=place or None)


def _names(loc: tuple[int | str, ...]) -> list[int | str]:
    """Where in a request something is, without the names of the types that were tried."""
    types = ("str", "bool", "Wanted")
    return [n for n in loc if isinstance(n, int) or (n.isidentifier() and n not in types)]


def _place(loc: tuple[int | str, ...]) -> str:
    parts = [f"[{one}]" if isinstance(one, int) else f".{one}" for one in _names(loc)]
    return "".join(parts).removeprefix(".")


def _check_more(given: Mapping[str, Any], place: str) -> None:
    for name, value in given.items():
        if value is None or (not place and name in _ANYTHING) or _asks_nothing(name, value):
            continue
        known = name in _NEUTRAL
        told = "is not supported with this value" if known else "is not known here"
        code = "unsupported_value" if known else "unknown_parameter"
        raise Refusal(400, f"{place}{name} {told}; leave it out", param=f"{place}{name}", code=code)


def _asks_nothing(name: str, value: Any) -> bool:
    allowed = _NEUTRAL.get(name, ())
    kind = isinstance(value, bool)
    return any(value == one and kind == isinstance(one, bool) for one in allowed)
