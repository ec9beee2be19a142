"""Sessions as files: the words of all agents and their messages, under a digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from unspoken import kept
from unspoken.agents import Edge
from unspoken.errors import Damaged, QueryError, SessionError, WireError
from unspoken.runs import Query, fields_of
from unspoken.sessions.past import Exchange, Past, asked, read_by
from unspoken.team import Team
from unspoken.types import FieldValue, Spec
from unspoken.wire import Message

__all__ = ["Kept", "load", "save"]

_KIND = "session"


class Kept(NamedTuple):
    """What a file says of a session: when it began, what agents and the user know of it."""

    began: datetime
    past: Mapping[str, Past]
    turns: Sequence[tuple[Query, str]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Received(_Part):
    """A message by its number in the file, and the edge over which it came."""

    edge: int
    sender: str
    receiver: str
    channel: str
    message: int


class _Exchange(_Part):
    fields: dict[str, FieldValue]
    words: str
    received: tuple[_Received, ...]


class _Agent(_Part):
    """stays: the numbers of exchanges, or what is read in place of some."""

    model: str
    weights: str
    tokenizer: str
    exchanges: tuple[_Exchange, ...]
    stays: tuple[int | _Exchange, ...]


class _Session(_Part):
    began: datetime
    agents: dict[str, _Agent]
    turns: tuple[tuple[str | dict[str, FieldValue], str], ...]


def save(path: Path, team: Team, held: Kept) -> None:
    """Write a session. Raises `StorageError`."""
    messages: list[Message] = []

    def plain(exchange: Exchange) -> _Exchange:
        received: list[_Received] = []
        for edge, message in exchange.received:
            number = next(n for n, one in enumerate(team.edges) if one is edge)
            received.append(_received(number, edge, len(messages)))
            messages.append(message)
        fields = {name: values[0] for name, values in exchange.fields.items()}
        return _Exchange(fields=fields, words=exchange.words, received=tuple(received))

    def agent(spec: Spec, past: Past) -> _Agent:
        places = {id(one): n for n, one in enumerate(past.exchanges)}
        stays = (places.get(id(one)) for one in past.stays)
        return _Agent(
            model=spec.name,
            weights=spec.weights,
            tokenizer=spec.tokenizer,
            exchanges=tuple(map(plain, past.exchanges)),
            stays=tuple(
                plain(one) if n is None else n for one, n in zip(past.stays, stays, strict=True)
            ),
        )

    agents = {n: agent(team.participants[n].spec, past) for n, past in held.past.items()}
    turns = tuple((asked(query), said) for query, said in held.turns)
    content = _Session(began=held.began, agents=agents, turns=turns).model_dump(mode="json")
    kept.save(path, _KIND, content, {str(n): _bytes(one) for n, one in enumerate(messages)})


def load(path: Path, team: Team) -> Kept:
    """Read a session of these agents. Raises `SessionError` for one of others, and `Damaged`."""
    with kept.advising("begin a new session, or get the file again"):
        found = kept.load(path, _KIND)
        try:
            held = _Session.model_validate(found.content)
            messages = {name: Message.from_bytes(_of(one)) for name, one in found.tensors.items()}
            _check_agents(path, held, team)
            past = {n: _past(path, n, one, messages, team) for n, one in held.agents.items()}
        except (ValidationError, WireError, LookupError, QueryError) as error:
            raise Damaged(
                f"{path} is damaged: its content is that of no session: {error}"
            ) from error
    return Kept(held.began, past, held.turns)


def _check_agents(path: Path, held: _Session, team: Team) -> None:
    if set(held.agents) != set(team.participants):
        raise SessionError(
            f"{path} is a session of agents {sorted(held.agents)}, and this pipeline has "
            f"{sorted(team.participants)}; load it with the pipeline that saved it"
        )
    for name, agent in held.agents.items():
        spec = team.participants[name].spec
        if not spec.is_known_as(agent.weights) or spec.tokenizer != agent.tokenizer:
            raise SessionError(
                f"{path} is a session in which {name!r} was {agent.model!r} with weights "
                f"{agent.weights} and tokenizer {agent.tokenizer}, and here it is {spec.name!r} "
                f"with {spec.weights} and {spec.tokenizer}; load it with the same model, or begin "
                "a new session"
            )


def _past(
    path: Path, name: str, agent: _Agent, messages: Mapping[str, Message], team: Team
) -> Past:
    def exchange(one: _Exchange) -> Exchange:
        received = tuple((_edge(path, r, team), messages[str(r.message)]) for r in one.received)
        read = read_by(team.participants[name].role, fields_of([one.fields]))
        return Exchange(read, one.words, received)

    all_ = tuple(map(exchange, agent.exchanges))
    places = range(len(all_))
    stays = (all_[places[n]] if isinstance(n, int) else exchange(n) for n in agent.stays)
    return Past(all_, tuple(stays))


def _received(number: int, edge: Edge, message: int) -> _Received:
    return _Received(
        edge=number,
        sender=edge.sender,
        receiver=edge.receiver,
        channel=edge.channel.name,
        message=message,
    )


def _edge(path: Path, received: _Received, team: Team) -> Edge:
    """The edge of this team over which a message came. Raises `SessionError` if it is another."""
    if received.edge < len(team.edges):
        edge = team.edges[received.edge]
        if _received(received.edge, edge, received.message) == received:
            return edge
    raise SessionError(
        f"{path} has a message from {received.sender!r} to {received.receiver!r} over "
        f"{received.channel!r}, and no such edge is in its place here; load it with the pipeline "
        "that saved it"
    )


def _bytes(message: Message) -> Tensor:
    return torch.frombuffer(bytearray(message.to_bytes()), dtype=torch.uint8)


def _of(data: Tensor) -> bytes:
    return bytes(data.numpy())
