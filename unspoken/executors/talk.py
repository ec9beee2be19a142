"""What crosses between a pipeline and a worker besides messages: small values as JSON."""

from __future__ import annotations

import traceback
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from unspoken import errors
from unspoken.agents import Role, Size
from unspoken.errors import UnspokenError, WorkerError
from unspoken.types import FieldValue, Finish, Spec, Usage

__all__ = [
    "CANCEL",
    "CheckRoom",
    "RoomChecked",
    "REQUEST",
    "REPLY",
    "Request",
    "Failed",
    "Describe",
    "Description",
    "Answer",
    "Piece",
    "TurnDone",
    "TakeTurn",
    "Reply",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()


class Describe(_Part):
    """Make the agent and say who it is."""

    kind: Literal["meet"] = "meet"


class TakeTurn(_Part):
    """Take a turn. Edges are given by number. As many messages as `received` follow it.

    sends: how many different messages come back.
    """

    kind: Literal["speak"] = "speak"
    fields: dict[str, tuple[FieldValue, ...]]
    received: tuple[int, ...]
    outgoing: tuple[int, ...]
    sends: int
    answers: bool
    step: int
    stream: bool


class CheckRoom(_Part):
    """Say whether items have room in the agent's window, without messages."""

    kind: Literal["check"] = "check"
    fields: dict[str, tuple[FieldValue, ...]]


class RoomChecked(_Part):
    """They have."""

    kind: Literal["checked"] = "checked"


CANCEL = b"cancel"
"""Comes while a turn is taken, which then ends after the pass in progress. Nothing answers it."""


class Description(_Part):
    """Who the agent is."""

    kind: Literal["met"] = "met"
    name: str
    role: Role
    spec: Spec


class TurnDone(_Part):
    """The end of a turn. Messages follow it. sent: which of them goes over each edge.

    sizes: those of the messages, one for each edge.
    """

    kind: Literal["said"] = "said"
    text: tuple[str, ...] | None
    usage: tuple[Usage, ...]
    sent: tuple[int, ...]
    sizes: tuple[Size, ...]
    reasoning: tuple[str | None, ...]
    finish: tuple[Finish, ...]


class Piece(_Part):
    """New words of an item, as they are written. The end of the turn follows."""

    kind: Literal["piece"] = "piece"
    row: int
    words: str


class Failed(_Part):
    """An error of the worker: its name, its message, and its trace."""

    kind: Literal["failed"] = "failed"
    error: str
    words: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failed:
        trace = "".join(traceback.format_exception(error))
        return cls(error=type(error).__name__, words=str(error), trace=trace)

    def raised(self, who: str) -> UnspokenError:
        """The same error if it is of this package, else a `WorkerError` that names the agent."""
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, UnspokenError):
            found = kind(self.words)
        else:
            found = WorkerError(
                f"{who} raised {self.error}: {self.words}; the trace beside this error says where. "
                "It can be asked again"
            )
        found.add_note(f"in the worker of {who}:\n{self.trace}")
        return found


Request = Describe | CheckRoom | TakeTurn
Reply = Description | RoomChecked | TurnDone | Piece | Failed
Answer = Description | RoomChecked | TurnDone | Failed
REQUEST = TypeAdapter[Request](Annotated[Request, Field(discriminator="kind")])
REPLY = TypeAdapter[Reply](Annotated[Reply, Field(discriminator="kind")])
