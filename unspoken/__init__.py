"""Agents wrap local language models and exchange messages over interchangeable channels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unspoken.agents import Agent, Role
    from unspoken.anchors import AnchorPool, Ladder
    from unspoken.backbone import Backbone, DiffusionBackbone, load_model
    from unspoken.channels import (
        Channel,
        Constant,
        Embedding,
        Fusion,
        Handoff,
        LatentRollout,
        ProjectedMemory,
        SelectiveLayers,
        SoftWords,
        TextChannel,
        make_channel,
    )
    from unspoken.engines import VllmModel
    from unspoken.executors import Processes, RayActors
    from unspoken.pipeline import Edge, Pipeline, Run
    from unspoken.projectors import EmbeddingProjector, FreeVectors
    from unspoken.relay.pair import load_pipeline
    from unspoken.studies.comparison import Report, compare
    from unspoken.tasks import TaskSource, load_task
    from unspoken.types import Denoising, Prompt, Settings
    from unspoken.wire import Message

_WHERE = {
    "Agent": "agents",
    "AnchorPool": "anchors",
    "Backbone": "backbone",
    "Channel": "channels",
    "Constant": "channels",
    "Denoising": "types",
    "DiffusionBackbone": "backbone",
    "Edge": "pipeline",
    "Embedding": "channels",
    "EmbeddingProjector": "projectors",
    "FreeVectors": "projectors",
    "Fusion": "channels",
    "Handoff": "channels",
    "Ladder": "anchors",
    "LatentRollout": "channels",
    "Message": "wire",
    "Pipeline": "pipeline",
    "Processes": "executors",
    "ProjectedMemory": "channels",
    "Prompt": "types",
    "RayActors": "executors",
    "Report": "studies.comparison",
    "Role": "agents",
    "Run": "pipeline",
    "SelectiveLayers": "channels",
    "Settings": "types",
    "SoftWords": "channels",
    "TaskSource": "tasks",
    "TextChannel": "channels",
    "VllmModel": "engines",
    "compare": "studies.comparison",
    "load_model": "backbone",
    "load_pipeline": "relay.pair",
    "load_task": "tasks",
    "make_channel": "channels",
}

__version__ = "0.2.0"
__all__ = [
    "Agent",
    "AnchorPool",
    "Backbone",
    "Channel",
    "Constant",
    "Denoising",
    "DiffusionBackbone",
    "Edge",
    "Embedding",
    "EmbeddingProjector",
    "FreeVectors",
    "Fusion",
    "Handoff",
    "Ladder",
    "LatentRollout",
    "Message",
    "Pipeline",
    "Processes",
    "ProjectedMemory",
    "Prompt",
    "RayActors",
    "Report",
    "Role",
    "Run",
    "SelectiveLayers",
    "Settings",
    "SoftWords",
    "TaskSource",
    "TextChannel",
    "VllmModel",
    "compare",
    "load_model",
    "load_pipeline",
    "load_task",
    "make_channel",
]


def __getattr__(name: str) -> Any:  # torch and transformers load when first used, not on import
    if name not in _WHERE:
        raise AttributeError(f"module 'unspoken' has no attribute {name!r}")
    return getattr(import_module(f"unspoken.{_WHERE[name]}"), name)
