"""Agents that tests make in other processes, and one that misbehaves when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from unspoken.agents import Agent, Edge, Role, Size, TurnResult
from unspoken.cancelling import is_cancelled
from unspoken.errors import EmptyPrompt
from unspoken.executors.lines import Line, SharedLine
from unspoken.types import Settings, Spec, Text, Usage
from unspoken.wire import Header, Message

LETTERS = 300_000
"""Letters in each row of a `Puppet`'s message: more than a pipe holds."""


def tiny(
    name: str, kind: str, width: int = 32, template: str = "{messages}Q: {question}\nA:"
) -> Agent:
    from unspoken.testing import tiny_backbone  # transformers takes seconds to import

    role = Role(template=template, message="{sender}:{message}\n", chat=False)
    return Agent(name, tiny_backbone(kind, width=width), role=role, settings=Settings(6))


class Puppet:
    """Says where it runs and how many letters it heard; does what a question tells it by name."""

    role = Role()
    model = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec = Spec("puppet", 1, 1, 1, 1, weights="w", tokenizer="t")

    def take_turn(
        self,
        fields: dict[str, tuple[str, ...]],
        heard: Sequence[tuple[Edge, Message]],
        over: Sequence[Edge],
        *,
        answers: bool = False,
        step: int = 0,
        on_text: Callable[[int, str], None] | None = None,
    ) -> TurnResult[Message]:
        questions = fields["question"]
        for question in questions:
            name, _, deed = question.partition(" ")
            if name == self.name:
                DEEDS[deed]()
        if on_text is not None:
            on_text(0, "piece by ")
            on_text(0, "piece")
        letters = [sum(len(m.payload.words[n]) for _, m in heard) for n in range(len(questions))]
        header = Header(channel="text", sender=self.name, weights="w", tokenizer="t")
        message = Message(header, Text(("x" * LETTERS,) * len(questions)))
        said = tuple(f"{os.getpid()} {count}" for count in letters)
        sizes = (Size(message.nbytes, LETTERS),) * len(over)
        usage = (Usage(),) * len(questions)
        return TurnResult(said, (message,) * len(over), usage, sizes=sizes)


def raises() -> None:
    raise KeyError("the lexicon")


def refuses() -> None:
    raise EmptyPrompt("nothing to read")


def cut(then: Callable[[], None]) -> None:
    """From now on half a message is sent, and the rest never."""

    def put(self: Any, message: Any) -> None:
        size = len(message).to_bytes(4, "big")
        os.write(self._connection.fileno(), size + bytes(message)[: len(message) // 2][:1000])
        then()

    def hold(self: Any, message: Any) -> None:
        then()

    Line._put, SharedLine._put = put, hold


def trap() -> None:
    """The next message finds nobody."""

    def get(self: Any) -> None:
        die()

    Line._get = SharedLine._get = get


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    print("hanging", flush=True)
    time.sleep(600)


def wait() -> None:
    """Until the run is given up, as a model that looks before each pass."""
    while not is_cancelled():
        os.sched_yield()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


DEEDS: dict[str, Callable[[], None]] = {
    "die": die,
    "exit": lambda: os._exit(3),
    "hang": hang,
    "stop": stop,
    "wait": wait,
    "raise": raises,
    "refuse": refuses,
    "trap": trap,
    "cut and die": lambda: cut(die),
    "cut and hang": lambda: cut(hang),
}


def broken() -> Agent:
    raise FileNotFoundError("no such model")
