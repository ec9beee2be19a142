"""The contract between a pipeline and the place where its agents run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from unspoken.agents import Agent, Edge, Participant
from unspoken.errors import PipelineError

__all__ = ["Executor", "Here", "Make", "check_limits"]

Make = Callable[[], Agent]
"""Makes an agent where it will run, model and all: a function of a module, or a partial of one."""


class Executor(Protocol):
    """Puts agents where they run."""

    def place(
        self, agents: Sequence[Agent | Make], edges: Sequence[Edge], opened: ExitStack
    ) -> Sequence[Participant[Any]]:
        """The agents, ready to take turns over `edges`; `opened` ends what was started."""
        ...


class Here:
    """Agents run in this process, and messages are handed over as they are.

    >>> from unspoken.testing import tiny_backbone
    >>> with ExitStack() as opened:
    ...     placed = Here().place([lambda: Agent("solver", tiny_backbone())], [], opened)
    >>> placed[0].name
    'solver'
    """

    def place(
        self, agents: Sequence[Agent | Make], edges: Sequence[Edge], opened: ExitStack
    ) -> list[Agent]:
        return [agent if isinstance(agent, Agent) else agent() for agent in agents]


def check_limits(timeout: float, start: float, limit: int) -> None:
    """Raise `PipelineError` for limits that nothing could keep."""
    if min(timeout, start) <= 0 or limit < 1:
        raise PipelineError(
            f"time limits are seconds above 0, got timeout={timeout}, start={start}; limit is "
            f"bytes, at least 1, got {limit}"
        )
