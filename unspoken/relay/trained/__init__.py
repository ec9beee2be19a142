"""Trained channels, one file for each: settings, projector, where training starts, channel.

Each derives from `TrainedChannel` and has a line in `unspoken/projectors/registry.py`.
CONTRIBUTING.md adds one in seven steps.
"""

from unspoken.relay.trained.base import (
    ComputedThoughts,
    Start,
    Thoughts,
    TrainedChannel,
    identities,
    trained_channel,
    trained_pipeline,
)

__all__ = [
    "ComputedThoughts",
    "Start",
    "Thoughts",
    "TrainedChannel",
    "identities",
    "trained_channel",
    "trained_pipeline",
]
