"""Pipelines that servers serve in tests."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Semaphore
from typing import Any

from unspoken.agents import Agent, Edge, Role
from unspoken.cancelling import is_cancelled
from unspoken.channels import TextChannel
from unspoken.pipeline import Pipeline
from unspoken.testing import ScriptedModel, tiny_backbone
from unspoken.types import Context, OnText, Settings, Words


def long_model(positions: int = 1 << 14) -> Any:
    """A tiny model that reads some thousand tokens."""
    model = tiny_backbone()
    model.model.config.max_position_embeddings = positions
    return model


def solver(model: Any = None, tokens: int = 8, role: str = "") -> Pipeline:
    """One agent, on a tiny model by default."""
    agent = Agent("solver", model or long_model(), role=role, settings=Settings(tokens))
    return Pipeline([agent])


def pair(model: Any = None, tokens: int = 8) -> Pipeline:
    """Two agents, of which one writes for the other."""
    model = model or long_model()
    agents = [Agent(name, model, settings=Settings(tokens)) for name in ("planner", "solver")]
    return Pipeline(agents, [Edge("planner", "solver", TextChannel())])


def scripted(script: Callable[[str], str] | str, tokens: int = 10_000) -> Pipeline:
    """One agent that follows a script, in which characters are tokens."""
    said = script if callable(script) else lambda _: script
    role = Role(chat=False)
    agent = Agent("solver", ScriptedModel(said), role=role, settings=Settings(tokens))
    return Pipeline([agent])


class Paced(ScriptedModel):
    """Writes its script letter by letter, each once the test allows it. Notes how it ended."""

    def __init__(self, script: str = "abcdefgh") -> None:
        super().__init__(lambda _: script)
        self.allowed, self.asked = Semaphore(0), Semaphore(0)
        self.ended, self.finish = Event(), ""
        self.broken: Exception | None = None
        self.written = 0

    def allow(self, letters: int = 10_000) -> None:
        self.allowed.release(letters)

    def write(
        self,
        context: Context,
        settings: Settings = Settings(),
        on_text: OnText | None = None,
    ) -> Words:
        (read,) = context.spelling.words
        try:
            self.asked.release()
            said = ""
            for letter in self.script(read):
                while not self.allowed.acquire(timeout=0.01):
                    if is_cancelled():
                        break
                if is_cancelled():
                    return self._words(said, "cancelled")
                if self.broken is not None:
                    raise self.broken
                said += letter
                self.written += 1
                if on_text is not None:
                    on_text(0, letter)
            return self._words(said, "stop")
        except BaseException:
            self.finish = "failed"
            raise
        finally:
            self.ended.set()

    def _words(self, said: str, finish: Any) -> Words:
        self.finish = finish
        ids = tuple(map(ord, said))
        return Words((said,), (len(ids),), len(ids), ids=(ids,), finish=(finish,))
