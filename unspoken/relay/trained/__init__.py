"""Trained channels, one file for each: settings, projector, where training starts, channel.

Each derives from `TrainedChannel` and has a line in `unspoken/projectors/registry.py`.
CONTRIBUTING.md adds one in seven steps.
"""

from unspoken.relay.trained.base import (
    ComputedStates,
    Start,
    StateSource,
    TrainedChannel,
    identities,
    trained_channel,
    trained_pipeline,
)

__all__ = [
    "ComputedStates",
    "Start",
    "StateSource",
    "TrainedChannel",
    "identities",
    "trained_channel",
    "trained_pipeline",
]
