"""What a server says no to, in the form of OpenAI's errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unspoken.errors import (
    ContextTooLong,
    EmptyPrompt,
    QueryError,
    QueueFull,
    SettingsError,
    TemplateError,
    UnknownName,
    UnreadableWords,
    WorkerTimeout,
    WriteTimeout,
)

__all__ = ["Refusal", "refusal_of"]

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

_OF_THE_CLIENT = (
    EmptyPrompt,
    QueryError,
    SettingsError,
    TemplateError,
    UnknownName,
    UnreadableWords,
)
"""Errors of ours about what was asked."""


class Refusal(Exception):
    """A request that is not answered. param: the field that is to blame, if one is.

    >>> Refusal(404, "there is no model 'x'", param="model", code="model_not_found").content()
    {'error': {'message': "there is no model 'x'", 'type': 'not_found_error', 'param': 'model', \
'code': 'model_not_found'}}
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """The body of the response."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _KINDS.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }

    @classmethod
    def busy(cls, message: str, seconds: float) -> Refusal:
        """Too much is asked at once. seconds: after which there may be room."""
        after = {"Retry-After": str(max(1, math.ceil(seconds)))}
        return cls(429, message, code="rate_limit_exceeded", headers=after)

    @classmethod
    def ending(cls) -> Refusal:
        """The server answers what it has begun, and ends."""
        after = {"Retry-After": "5"}
        return cls(503, "the server is about to end; ask again", code="ending", headers=after)


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of an error. Of an error that is not about its request only that."""
    match error:
        case Refusal():
            return error
        case ContextTooLong():
            code = "context_length_exceeded"
            return Refusal(400, str(error), param="messages", code=code)
        case QueueFull(retry_after=None):
            return Refusal(400, str(error))
        case QueueFull():
            return Refusal.busy(str(error), error.retry_after or 0)
        case WriteTimeout() | WorkerTimeout():
            headers = {"x-should-retry": "false"}  # it would take as long again
            return Refusal(504, str(error), code="timeout", headers=headers)
        case error if isinstance(error, _OF_THE_CLIENT):
            return Refusal(400, str(error), param="messages")
        case _:
            return Refusal(500, "the server failed to answer; its log says why", code="failed")
