"""What tests do with the events of a run."""

from __future__ import annotations

from unspoken.events import WordsWritten
from unspoken.pipeline import Pipeline, Query, Run

__all__ = ["heard"]


def heard(pipeline: Pipeline, query: Query) -> tuple[Run, list[str]]:
    """A run, and the answering agent's words in the pieces in which they came."""
    with pipeline.stream(query) as events:
        pieces = [
            event.words
            for event in events
            if isinstance(event, WordsWritten) and event.agent == pipeline.order[-1]
        ]
    assert events.run is not None
    return events.run, pieces
