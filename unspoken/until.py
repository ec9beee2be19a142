"""Rules that end the rounds of a pipeline. They look at what its agents wrote, and no further."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unspoken.errors import PipelineError, require
from unspoken.runs import Run

__all__ = ["Pattern", "Phrase", "Until", "holds", "rule_name"]

Until = Callable[[Run], bool]
"""Says of a run so far, whose answer is not there yet, whether its rounds are over."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Rounds end once an agent has written these words. agent: that agent, or any.

    >>> from unspoken.runs import Turn
    >>> from unspoken.types import Usage
    >>> run = Run("", (Turn("critic", 1, "I AGREE.", Usage()),))
    >>> Phrase("AGREE")(run), Phrase("AGREE", agent="writer")(run)
    (True, False)
    """

    words: str
    agent: str | None = None

    def __post_init__(self) -> None:
        given: Any = self.words
        fits = isinstance(given, str) and bool(given.strip())
        require(fits, "the phrase of until", given, "words that are not empty", PipelineError)

    def __call__(self, run: Run) -> bool:
        return any(self.words in words for words in _written(run, self.agent))


@dataclass(frozen=True, slots=True)
class Pattern:
    """Rounds end once a regular expression is found in what an agent has written in one turn."""

    pattern: str
    agent: str | None = None

    def __post_init__(self) -> None:
        given: Any = self.pattern
        try:
            empty = re.compile(given).search("") is not None
        except (re.error, TypeError) as error:
            raise PipelineError(
                f"the pattern of until is {given!r}, which is no regular expression: {error}"
            ) from error
        require(not empty, "the pattern of until", given, "one that needs words", PipelineError)

    def __call__(self, run: Run) -> bool:
        return any(re.search(self.pattern, words) for words in _written(run, self.agent))


def _written(run: Run, agent: str | None) -> list[str]:
    """The words of each turn, without thoughts."""
    return [turn.text for turn in run.turns if turn.text and agent in (None, turn.agent)]


def rule_name(rule: Until) -> str:
    """What a run calls the rule that ended its rounds."""
    name = getattr(rule, "__qualname__", "")
    return f"{getattr(rule, '__module__', '')}:{name}" if name else repr(rule)


def holds(rule: Until, run: Run) -> bool:
    """Whether a rule ends the rounds. Raises `PipelineError` if it does not say."""
    found: Any = rule(run)
    allowed = "True or False for a run"
    require(
        isinstance(found, bool), f"what {rule_name(rule)} returned", found, allowed, PipelineError
    )
    return found
