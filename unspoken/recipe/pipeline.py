"""Pipelines by recipe."""

from __future__ import annotations

from typing import Any

from unspoken.agents import Agent, Role
from unspoken.backbone import Backbone
from unspoken.channels import Channel, make_channel
from unspoken.errors import RecipeError, UnspokenError
from unspoken.pipeline import Edge, Pipeline
from unspoken.recipe.config import AgentSource, PipelineRecipe
from unspoken.types import Settings

__all__ = ["build"]


def build(recipe: PipelineRecipe) -> Pipeline:
    """Make the pipeline: each model is loaded once, however many agents share it."""
    edges: list[Edge] = []
    for source in recipe.edges:
        options = dict(source.channel)
        if "kind" not in options:
            raise RecipeError(f"the channel {options} has no kind; add for example kind: text")
        edges.append(Edge(source.sender, source.receiver, _channel(**options)))
    names = dict.fromkeys(agent.model for agent in recipe.agents)
    backbones = {
        name: Backbone.from_pretrained(name, dtype=recipe.dtype, device=recipe.device)
        for name in names
    }
    agents = [_agent(source, backbones[source.model]) for source in recipe.agents]
    return Pipeline(agents, edges, rounds=recipe.rounds)


def _channel(kind: str, **options: Any) -> Channel:
    try:
        return make_channel(kind, **options)
    except UnspokenError:
        raise
    except (ValueError, OSError) as error:
        raise RecipeError(f"the channel {kind!r} cannot be made with {options}: {error}") from error


def _agent(source: AgentSource, backbone: Backbone) -> Agent:
    role = Role(
        lead=source.lead,
        template=source.template,
        message=source.message,
        chat=source.chat,
        first=source.first,
        reuse=source.reuse,
        candidates=source.candidates,
    )
    settings = Settings(
        max_tokens=source.max_tokens,
        stop=source.stop,
        temperature=source.temperature,
        seed=source.seed,
    )
    return Agent(source.name, backbone, role=role, settings=settings)
