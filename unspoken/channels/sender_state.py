"""What an agent holds after its turn, from which its channels make messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unspoken.protocols import Model
from unspoken.types import CacheSegment, Finish, Need, Rollout, Spec, Vectors

__all__ = ["SenderState"]


@dataclass(frozen=True, slots=True, eq=False)
class SenderState:
    """What an agent holds after its turn: only what its channels asked for.

    given: the text of each of the B items, word for word. opening: the shared text that the agent
    read first. task: the id of each item, by `task_ids`. role: the first line of its instructions.
    step: its turn in a pipeline, from 1. text, reasoning and finish: B strings that it wrote, and
    the rest as in `Words`. hidden and cached as in `Read`, or hidden as in `Words`. rollouts: by
    the need that asked for each.
    """

    agent: str
    model: Model
    given: tuple[str, ...]
    opening: str = ""
    task: tuple[str, ...] = ()
    role: str = ""
    step: int = 0
    text: tuple[str, ...] | None = None
    reasoning: tuple[str | None, ...] = ()
    finish: tuple[Finish, ...] = ()
    hidden: Mapping[int, Vectors] = field(default_factory=dict[int, Vectors])
    cached: CacheSegment | None = None
    rollouts: Mapping[Need, Rollout] = field(default_factory=dict[Need, Rollout])

    @property
    def spec(self) -> Spec:
        return self.model.spec
