"""What is shown of a run on request: turns, messages and costs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unspoken.audit import nearest, reading
from unspoken.backbone.diffusion import Frame
from unspoken.errors import UnspokenError
from unspoken.events import (
    Event,
    MessageSent,
    TurnEnded,
    TurnStarted,
    WordsLeftOut,
    WordsWritten,
)
from unspoken.protocols import Model
from unspoken.runs import Run

__all__ = ["canvas_of", "frame_of", "reading_of", "sent_of", "summary_of"]


def frame_of(event: Event) -> dict[str, Any] | None:
    """An event as a frame of a stream, None for a message and for the end of the run."""
    match event:
        case TurnStarted():
            return {"type": "turn_started", **_where(event)}
        case WordsWritten():
            return {"type": "words", **_where(event), "words": event.words}
        case WordsLeftOut():
            return {"type": "left_out", **asdict(event.left_out)}
        case TurnEnded():
            return {"type": "turn_ended", "step": event.step, **asdict(event.turn)}
        case _:
            return None


def summary_of(run: Run, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A whole run: `turns`, `messages` and the `costs` of each agent."""
    return {
        "turns": [asdict(turn) for turn in run.turns],
        "messages": list(messages),
        "costs": {name: asdict(usage) for name, usage in run.costs.items()},
        "ended_by": run.ended_by,
        "left_out": [asdict(one) for one in run.left_out],
    }


def canvas_of(turn: TurnStarted, frame: Frame) -> dict[str, Any]:
    """The canvas of a diffusion model after a pass: its words, None where it is masked."""
    canvas = {"words": frame.words, "pass": frame.step, "passes": frame.steps}
    return {"type": "canvas", **_where(turn), **canvas}


def _where(event: TurnStarted | WordsWritten) -> dict[str, Any]:
    return {"agent": event.agent, "round": event.round, "step": event.step}


def sent_of(event: MessageSent) -> dict[str, Any]:
    """A message without what is in it."""
    return {
        "from": event.sender,
        "to": event.receiver,
        "channel": event.channel,
        "round": event.round,
        "step": event.step,
        "bytes": event.size.bytes,
        "positions": event.size.positions,
    }


def reading_of(event: MessageSent, model: Model) -> dict[str, Any]:
    """What the receiver's model writes of a message, which proves nothing, None if it cannot.

    nearest: for each vector of a message of vectors, the words of the model that are next to it.
    """
    try:
        (words,) = reading(event.message, model, event.edge.channel)
        near = nearest(event.message, model)
    except UnspokenError:
        return {"words": None, "nearest": []}
    return {"words": words, "nearest": near[0] if near else []}
