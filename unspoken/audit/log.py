"""A log of messages: each one as a file, and an index with a line for each."""

from __future__ import annotations

import json
import os
import warnings
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from filelock import FileLock

from unspoken import kept
from unspoken.agents import Agent
from unspoken.audit.reading import reading
from unspoken.errors import Damaged, StorageError
from unspoken.events import Event, MessageSent
from unspoken.files import sha256 as file_digest
from unspoken.files import write_bytes
from unspoken.types import Usage
from unspoken.wire import Message, Seal

__all__ = ["Audit", "read_log"]

_INDEX, _MESSAGES = "index.jsonl", "messages"
_DIGEST = "line_sha256"  # `sha256` is the message's


class Audit:
    """A folder that keeps every message of a pipeline: `messages/<sha256>` and `index.jsonl`.

    A message is as confidential as the prompt that it came from, and so is the folder. With a
    `seal` the files are signed or encrypted, and the index holds nothing in clear that a message
    said: its shadow is sealed, and the ids of its items are keyed. Names of agents and channels,
    times, costs and sizes stay readable. shadow: ask each receiver what the message says, and keep
    its words. That costs passes that no `Usage` counts, and proves nothing.

    A file is whole or not there. A line of the index is written after its file, in one piece and
    by one process at a time. The next process removes what an interrupted one left.
    """

    def __init__(
        self, folder: str | Path, *, shadow: bool = False, seal: Seal | None = None
    ) -> None:
        self.folder, self.shadow, self.seal = Path(folder), shadow, seal

    def run(self, agents: Mapping[str, Agent]) -> _Log:
        """The log of one run of these agents, which is told its events. Its lines share a name."""
        return _Log(self, uuid4().hex[:16], agents)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the index. Raises `StorageError` if the folder cannot be written."""
        path = self.folder / _INDEX
        data = json.dumps(kept.digested(line, _DIGEST), ensure_ascii=False).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")), path.open("a+b") as file:
                _cut_unfinished(file.fileno())
                os.write(file.fileno(), data)
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror}; free some room or choose another folder"
            ) from error


@dataclass(frozen=True, slots=True)
class _Log:
    """Where the messages of one run go."""

    audit: Audit
    name: str
    agents: Mapping[str, Agent]

    def __call__(self, event: Event) -> None:
        """Keep a message that is sent, and what the sender's turn cost until it was made."""
        if isinstance(event, MessageSent):
            self._record(event.message, event)

    def _record(self, message: Message, sent: MessageSent) -> None:
        audit, header, usage = self.audit, message.header, sent.usage
        receiver, channel = self.agents[sent.receiver], sent.edge.channel
        data = message.to_bytes(audit.seal)
        digest = sha256(data).hexdigest()
        path = Path(_MESSAGES) / digest
        if not (audit.folder / path).exists():  # the same message, sent again
            write_bytes(audit.folder / path, data)
        shadow = reading(message, receiver.model, channel) if audit.shadow else None
        cost = sum(usage, Usage())
        audit.append(
            {
                "run": self.name,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "sender": header.sender,
                "receiver": receiver.name,
                "channel": header.channel,
                "step": header.step,
                "task": [audit.seal.hidden(one) if audit.seal else one for one in header.task],
                "file": str(path),
                "sha256": digest,
                "bytes": len(data),
                "packing": message.layout.packing.kind,
                "cost": {
                    "read": cost.read,
                    "written": cost.written,
                    "passes": max((row.passes for row in usage), default=0),
                    "seconds": round(cost.seconds, 6),
                },
                "shadow": None if shadow is None else _kept(shadow, audit.seal),
            }
        )


def read_log(folder: str | Path, seal: Seal | None = None) -> list[dict[str, Any]]:
    """The lines of an index, oldest first, once they and their messages are found whole.

    What an interrupted process left is left out with a warning: a line that was never finished, and
    messages without a line. seal: the keys of the log, by which shadows are opened. Raises
    `Damaged` for all else that is not as it was written, and `WireError` for other keys.
    """
    path = Path(folder) / _INDEX
    try:
        *lines, unfinished = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; give another folder") from error
    with kept.advising("what it says is lost; move the folder aside, or get it again"):
        rows = [_line(line, n, path) for n, line in enumerate(lines, 1)]
        named = {_message(row, path) for row in rows if "file" in row}
    there = {file.name for file in (path.parent / _MESSAGES).glob("[!.]*")}
    if lost := len(there - named) + bool(unfinished):
        warnings.warn(
            f"{path} lacks {lost} messages or lines: a process was interrupted, or it was cut",
            stacklevel=2,
        )
    return [row | {"shadow": _opened(row["shadow"], seal)} for row in rows] if seal else rows


def _line(data: bytes, number: int, path: Path) -> dict[str, Any]:
    line = kept.parse(data, path)
    if not isinstance(line, dict):
        raise Damaged(f"{path} is damaged: its line {number} is no JSON object")
    row = cast(dict[str, Any], line)
    for name, value in row.items():
        rest = {other: one for other, one in row.items() if other != name}
        if name != _DIGEST and value == kept.content_digest(rest):
            raise Damaged(f"{path} is damaged: line {number} has its digest under {name!r}")
    return kept.opened(row, path, _DIGEST)


def _message(row: dict[str, Any], path: Path) -> str:
    """The name of a message, whose file is whole."""
    file = path.parent / _MESSAGES / Path(str(row["file"])).name
    if not file.is_file() or file_digest(file) != row.get("sha256"):
        raise Damaged(f"{file} is {'damaged' if file.is_file() else 'missing'}")
    return file.name


def _kept(shadow: Sequence[str], seal: Seal | None) -> list[str] | str:
    """The words of a shadow, or sealed in base64."""
    words = list(shadow)
    if seal is None:
        return words
    return b64encode(b"".join(seal.close([json.dumps(words).encode()]))).decode()


def _opened(shadow: list[str] | str | None, seal: Seal) -> list[str] | None:
    if not isinstance(shadow, str):
        return shadow
    return json.loads(bytes(seal.open(memoryview(b64decode(shadow)))))


def _cut_unfinished(file: int) -> None:
    """Remove what comes after the last end of a line."""
    size = os.fstat(file).st_size
    start = max(0, size - (1 << 20))
    tail = os.pread(file, size - start, start)
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(file, start + tail.rfind(b"\n") + 1)
