"""What agents decide: alone, at each budget, and receivers from the message of each sender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unspoken.evaluation.asking import Desk
from unspoken.pipeline import Pipeline
from unspoken.protocols import Model
from unspoken.studies.teams.calibrate import Sent, Solo
from unspoken.studies.teams.rivals import rivals
from unspoken.studies.teams.windows import windows
from unspoken.tasks import Item

__all__ = ["AGENTS", "Room"]

AGENTS = 3
"""How many agents of one model are measured: as many as the smallest vote has."""


@dataclass(frozen=True)
class Room:
    """The items, the two answers between which each is decided, and the agent that reads facts.

    An agent differs from its siblings by the window of the fact that it reads. It decides for the
    likelier answer and draws none: a vote would only take away the noise that drawing had added.
    """

    items: Sequence[Item]
    lone: Pipeline
    answers: Sequence[tuple[str, str]]
    seed: int
    desk: Desk

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        lone: Pipeline,
        *,
        say: Callable[[Item], str],
        seed: int,
        desk: Desk,
    ) -> Room:
        """Each item's own answer against a rival, see `rivals`. Raises `DataError`."""
        answers = rivals(items, lone, say=say, seed=seed, desk=desk)
        return cls(items, lone, answers, seed, desk)

    @property
    def reader(self) -> Model:
        return self.lone.answerer.model

    @property
    def whole(self) -> float:
        """Tokens of a fact, the mean."""
        return sum(len(self.reader.tokens(item.context)) for item in self.items) / len(self.items)

    def read(self, budget: int) -> float:
        """How many tokens an agent reads with this budget, the mean: no more than a fact has."""
        return self._asked(budget, 0)[1]

    def alone(self, budget: int, agent: int) -> tuple[int, ...]:
        """What one agent decides from its windows."""
        name = f"alone, {budget} tokens, agent {agent + 1}"
        return self.desk.ask(name, self.lone, self._asked(budget, agent)[0], self.answers).signs

    def solo(self, budget: int) -> Solo:
        """What each of three agents decides alone with a budget of tokens."""
        signs = tuple(self.alone(budget, agent) for agent in range(AGENTS))
        return Solo(budget, self.read(budget), signs)

    def sent(self, channel: str, setting: str, line: Pipeline, leaf: int) -> Sent:
        """What the receiver decides from the message of each of three agents with `leaf` tokens.

        A message costs the positions that the receiver reads; as many again if a sender wrote it.
        """
        asked = [
            self.desk.ask(
                f"{channel}, {setting}, agent {agent + 1}",
                line,
                self._asked(leaf, agent)[0],
                self.answers,
            )
            for agent in range(AGENTS)
        ]
        positions = sum(one.positions for one in asked) / AGENTS
        written = any(need.writes for edge in line.edges for need in edge.channel.needs)
        cost = positions * (2 if written else 1)
        signs = tuple(one.signs for one in asked)
        silent = self.desk.ask(
            f"{channel}, no message", line.alone(), self._asked(leaf, 0)[0], self.answers
        )
        return Sent(channel, setting, positions, cost, signs, silent.signs)

    def _asked(self, tokens: int, agent: int) -> tuple[list[dict[str, str]], float]:
        """The questions, with an agent's window in the place of the fact; and its mean tokens."""
        read = windows(self.items, tokens, agent, seed=self.seed, model=self.reader)
        queries = [
            {"question": item.question, "context": words}
            for item, (words, _) in zip(self.items, read, strict=True)
        ]
        return queries, sum(count for _, count in read) / len(read)
