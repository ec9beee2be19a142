"""Errors: each says what was given, what is allowed and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = [
    "ContextTooLong",
    "Damaged",
    "DataError",
    "EmptyPrompt",
    "IncompatibleModels",
    "MissingExtra",
    "NoIdentity",
    "NotFinite",
    "OutOfRoom",
    "PairError",
    "PipelineError",
    "QueryError",
    "QueueFull",
    "RecipeError",
    "SealError",
    "SessionError",
    "SettingsError",
    "StorageError",
    "TemplateError",
    "TrainingError",
    "UnknownName",
    "UnreadableWords",
    "UnspokenError",
    "WireError",
    "WorkerError",
    "WorkerTimeout",
    "WriteTimeout",
    "check_unicode",
    "require",
    "shown",
    "unknown",
]


class UnspokenError(Exception):
    """The base of every error that `unspoken` raises on purpose."""


class UnknownName(UnspokenError, LookupError):
    """A model, channel, agent, recipe or task name that is not registered."""


class MissingExtra(UnspokenError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""


class IncompatibleModels(UnspokenError, ValueError):
    """Sender and receiver do not fit the channel between them."""


class NoIdentity(UnspokenError, TypeError):
    """A channel or agent holds a value that cannot be told from others by what it holds."""


class NotFinite(UnspokenError, ArithmeticError):
    """A message, a model, a projector or a score holds numbers that are NaN or infinite."""


class OutOfRoom(UnspokenError, MemoryError):
    """Caches that agents hold beside a serving engine take more bytes than they may."""


class PairError(UnspokenError, ValueError):
    """A folder that holds no trained pair, several of them, or one that cannot be used here."""


class PipelineError(UnspokenError, ValueError):
    """A pipeline that cannot run: unknown agents, cycles without rounds, no receiver."""


class QueryError(UnspokenError, ValueError):
    """Something that is no question and no item, where a pipeline is asked one."""


class QueueFull(UnspokenError, RuntimeError):
    """More rows wait for a model than may wait. Nothing of the request was begun.

    retry_after: seconds after which there may be room, None if there never is for so many rows.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SealError(UnspokenError, ValueError):
    """A key that is missing, empty, too short or no key at all."""


class SessionError(UnspokenError, ValueError):
    """A conversation that cannot go on: closed, in the middle of a run, or of other models."""


class SettingsError(UnspokenError, ValueError):
    """Settings by which no agent can write, or which a channel does not have, or lacks."""


class TemplateError(UnspokenError, ValueError):
    """A chat template that refuses a turn, or that does not show the words of one."""


class UnreadableWords(UnspokenError, ValueError):
    """Words that a tokenizer cannot read as words."""


class EmptyPrompt(UnspokenError, ValueError):
    """A row of a prompt holds no token that a model could read."""


class ContextTooLong(UnspokenError, ValueError):
    """A prompt has more positions than the model was trained for."""


class DataError(UnspokenError, ValueError):
    """A task file or line that cannot be read."""


class RecipeError(UnspokenError, ValueError):
    """A recipe that cannot be read, or that sets what it may not."""


class StorageError(UnspokenError, OSError):
    """A file could not be written, or read. The old file is untouched."""


class Damaged(StorageError):
    """A kept file is not as it was written, or of another version. Nothing of it was used."""


class TrainingError(UnspokenError, RuntimeError):
    """Training broke a promise: a frozen weight moved, or a trainable one did not."""


class WireError(UnspokenError, ValueError):
    """Bytes that are no message of a known version, or not a whole one."""


class WorkerError(UnspokenError, RuntimeError):
    """The process or actor of an agent ended, broke off, or raised an error that is not ours.

    done: from `Pipeline.run_many`, the runs of the batches before, by their place in the queries.
    """

    done: Mapping[int, Any] = {}


class WorkerTimeout(WorkerError, TimeoutError):
    """The process or actor of an agent did not answer within its time limit, and was ended."""


class WriteTimeout(UnspokenError, TimeoutError):
    """A turn was not written within its time limit, its wait in the queue included."""


def check_unicode(what: str, words: str, kind: type[UnspokenError]) -> None:
    """Raise an error of a kind for words that are no valid Unicode: half a letter is in them."""
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise kind(
            f"{what} is no valid Unicode: {error.reason} at character {error.start}; take it out, "
            "as words.encode(errors='replace').decode() does"
        ) from error


def unknown(kind: str, given: str, allowed: Iterable[str], remedy: str = "") -> UnknownName:
    """Build an `UnknownName` with a did-you-mean and the list of what exists."""
    names = sorted(allowed)
    close = get_close_matches(given, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    end = f" {remedy}" if remedy else ""
    return UnknownName(f"unknown {kind} {given!r}{hint} Known: {', '.join(names) or 'none'}.{end}")


def require(
    fits: bool, what: str, given: object, allowed: str, error: type[UnspokenError] = SettingsError
) -> None:
    """Raise an error that says what was given and what is allowed, unless it fits."""
    if not fits:
        raise error(f"{what} is {given!r}, but it has to be {allowed}")


def shown(given: object) -> str:
    """A value as an error quotes it: whole if it is short, else its beginning and its type."""
    words = repr(given)
    return f"{words[:60]}... of type {type(given).__name__}" if len(words) > 60 else words
