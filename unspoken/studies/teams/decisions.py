"""What agents decide: alone, at each budget, and receivers from the message of each sender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.expected import Expected
from unspoken.pipeline import Pipeline
from unspoken.protocols import Model
from unspoken.studies.teams.answer_pairs import answer_pairs
from unspoken.studies.teams.calibrate import Sent, Solo
from unspoken.studies.teams.windows import Window, windows
from unspoken.tasks import Item

__all__ = ["AGENTS", "Room"]

AGENTS = 3
"""How many agents of one model are measured: the size of the smallest vote."""


@dataclass(frozen=True)
class Room:
    """The items, the two answers between which each is decided, and the agent that reads facts.

    An agent differs from its siblings by the window of the fact that it reads. It decides for the
    likelier answer and does not sample: a vote would only remove the noise of sampling.
    """

    evaluator: Evaluator
    decider: Pipeline
    answers: Sequence[tuple[str, str]]
    seed: int

    @classmethod
    def of(cls, evaluator: Evaluator, decider: Pipeline, *, expected: Expected, seed: int) -> Room:
        """Each item's right answer against a wrong one, see `answer_pairs`. Raises `DataError`."""
        answers = answer_pairs(evaluator, decider, expected=expected, seed=seed)
        return cls(evaluator, decider, answers, seed)

    @property
    def items(self) -> Sequence[Item]:
        return self.evaluator.items

    @property
    def reader(self) -> Model:
        return self.decider.answerer.model

    @property
    def whole(self) -> float:
        """Tokens of a fact, the mean."""
        return sum(len(self.reader.tokens(item.context)) for item in self.items) / len(self.items)

    def read(self, budget: int) -> float:
        """How many tokens an agent reads with this budget, the mean: no more than a fact has."""
        read = self._windows(budget, 0)
        return sum(count for _, count in read) / len(read)

    def alone(self, budget: int, agent: int) -> tuple[int, ...]:
        """What one agent decides from its windows."""
        name = f"alone, {budget} tokens, agent {agent + 1}"
        return self._reading(budget, agent).likelihoods(name, self.decider, self.answers).signs

    def solo(self, budget: int) -> Solo:
        """What each of three agents decides alone with a budget of tokens."""
        signs = tuple(self.alone(budget, agent) for agent in range(AGENTS))
        return Solo(budget, self.read(budget), signs)

    def sent(self, channel: str, setting: str, pipeline: Pipeline, leaf: int) -> Sent:
        """What the receiver decides from the message of each of three agents with `leaf` tokens.

        A message costs the positions that the receiver reads, and twice that if a sender wrote it.
        """
        asked = [
            self._reading(leaf, agent).likelihoods(
                f"{channel}, {setting}, agent {agent + 1}", pipeline, self.answers
            )
            for agent in range(AGENTS)
        ]
        positions = sum(one.positions for one in asked) / AGENTS
        written = any(need.writes for edge in pipeline.edges for need in edge.channel.needs)
        cost = positions * (2 if written else 1)
        signs = tuple(one.signs for one in asked)
        silent = self._reading(leaf, 0).likelihoods(
            f"{channel}, no message", pipeline.without_messages(), self.answers
        )
        return Sent(channel, setting, positions, cost, signs, silent.signs)

    def _reading(self, tokens: int, agent: int) -> Evaluator:
        """The items, with an agent's window in the place of the fact."""
        read = zip(self.items, self._windows(tokens, agent), strict=True)
        return self.evaluator.about([replace(item, context=words) for item, (words, _) in read])

    def _windows(self, tokens: int, agent: int) -> list[Window]:
        return windows(self.items, tokens, agent, seed=self.seed, model=self.reader)
