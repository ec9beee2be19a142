"""The worker's side. An agent is made here and takes its turns here. Messages come as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from unspoken.agents import Agent, Edge
from unspoken.errors import PipelineError, WireError
from unspoken.executors.base import Make
from unspoken.executors.talk import (
    REQUEST,
    CheckRoom,
    Describe,
    Description,
    Failed,
    Request,
    RoomChecked,
    TakeTurn,
    TurnDone,
)
from unspoken.protocols import device_of
from unspoken.types import CacheSegment, KVCache, OnText, Spelling, Vectors
from unspoken.wire import Message
from unspoken.wire.codec import Buffer

__all__ = ["Host", "pack"]

Dumps = Callable[[Any], bytes]


def pack(agent: Agent | Make, edges: Sequence[Edge], dumps: Dumps = pickle.dumps) -> bytes:
    """What a worker makes its agent and edges of. Raises `PipelineError` for what cannot go."""
    if isinstance(agent, Agent):
        raise PipelineError(
            f"agent {agent.name!r} is made already, with its model in this process; for an "
            "executor give a function that makes it, for example functools.partial(make, ...)"
        )
    try:
        return dumps((agent, tuple(edges)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise PipelineError(
            f"{agent!r} or a channel cannot go to another process: {error}; give a function of a "
            "module, or a functools.partial of one, not a lambda or a function inside a function"
        ) from error


class Host:
    """One agent with the edges of its pipeline; requests and replies are JSON.

    packed: from `pack`, unpickled in the worker that this program started, never from a socket.
    limit: bytes of the largest message that may come or leave.
    """

    def __init__(self, packed: bytes, limit: int, threads: int) -> None:
        self.packed, self.limit, self.threads = packed, limit, threads
        self._made: tuple[Agent, tuple[Edge, ...]] | None = None

    def answer(
        self, request: bytes, messages: Sequence[Buffer], on_text: OnText
    ) -> tuple[bytes, list[bytes]]:
        """The reply and its messages. An error becomes a reply too."""
        try:
            reply, sent = self._answer(REQUEST.validate_json(request), messages, on_text)
        except Exception as error:
            reply, sent = Failed.of(error), list[bytes]()
        return reply.to_bytes(), sent

    def _answer(
        self, asked: Request, messages: Sequence[Buffer], on_text: OnText
    ) -> tuple[Description | RoomChecked | TurnDone, list[bytes]]:
        agent, edges = self._unpacked()
        match asked:
            case Describe():
                return Description(name=agent.name, role=agent.role, spec=agent.spec), []
            case CheckRoom():
                agent.check_room(asked.fields)
                return RoomChecked(), []
            case TakeTurn():
                return self._take_turn(asked, messages, agent, edges, on_text)

    def _unpacked(self) -> tuple[Agent, tuple[Edge, ...]]:
        if self._made is None:
            torch.set_num_threads(self.threads)  # sums are rounded as in the pipeline's process
            make, edges = pickle.loads(self.packed)
            self._made = make(), edges
        return self._made

    @torch.no_grad()
    def _take_turn(
        self,
        asked: TakeTurn,
        messages: Sequence[Buffer],
        agent: Agent,
        edges: Sequence[Edge],
        on_text: OnText,
    ) -> tuple[TurnDone, list[bytes]]:
        device, limit = device_of(agent.model), self.limit
        arrived = [_on(device, Message.from_bytes(data, limit=limit)) for data in messages]
        result = agent.take_turn(
            asked.fields,
            [(edges[n], message) for n, message in zip(asked.received, arrived, strict=True)],
            [edges[n] for n in asked.outgoing],
            answers=asked.answers,
            step=asked.step,
            on_text=on_text if asked.stream else None,
        )
        leaving = list({id(message): message for message in result.messages}.values())
        for message in leaving:
            if message.nbytes > self.limit:
                raise WireError(
                    f"the message of agent {agent.name!r} over {message.header.channel!r} has "
                    f"{message.nbytes:,} bytes, but its executor lets through at most "
                    f"{self.limit:,}; raise the executor's `limit` or send less"
                )
        sent = tuple(leaving.index(message) for message in result.messages)
        done = TurnDone(
            text=result.text,
            usage=result.usage,
            sent=sent,
            sizes=result.sizes,
            reasoning=result.reasoning,
            finish=result.finish,
        )
        return done, [message.to_bytes() for message in leaving]


def _on(device: torch.device, message: Message) -> Message:
    """The message with its tensors on the device of the agent that receives it."""
    match message.payload:
        case CacheSegment(cache, mask, places, spelling):
            pairs = tuple((keys.to(device), values.to(device)) for keys, values in cache.kv())
            if spelling is not None:
                spelling = Spelling(spelling.words, spelling.ends.to(device), spelling.begin)
            cached = CacheSegment(KVCache(pairs), mask.to(device), places.to(device), spelling)
            return replace(message, payload=cached)
        case Vectors(values, mask):
            return replace(message, payload=Vectors(values.to(device), mask.to(device)))
        case _:
            return message
