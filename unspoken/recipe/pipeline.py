"""Pipelines from recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

from unspoken.agents import Agent, Role
from unspoken.backbone import LanguageModel, load_model
from unspoken.channels import Channel, make_channel
from unspoken.errors import RecipeError, SettingsError, UnspokenError
from unspoken.executors import Executor, Here, Processes, RayActors
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model
from unspoken.recipe.config import PipelineRecipe
from unspoken.recipe.parts import AgentSource
from unspoken.types import Settings

__all__ = ["agent_of", "build", "channel_of"]


def build(recipe: PipelineRecipe) -> Pipeline:
    """Make the pipeline. Here each model is loaded once, elsewhere once for each agent."""
    edges: list[Edge] = []
    for source in recipe.edges:
        channel = channel_of(source.channel)
        edges.append(Edge(source.sender, source.receiver, channel, source.pack, source.shadow))
    load = partial(load_model, dtype=recipe.dtype, device=recipe.device)
    load = cache(load) if recipe.executor == "here" else load
    agents = [partial(_agent, source, load) for source in recipe.agents]
    return Pipeline(
        agents, edges, rounds=recipe.rounds, answer=recipe.answer, executor=_executor(recipe)
    )


def _executor(recipe: PipelineRecipe) -> Executor:
    match recipe.executor:
        case "here":
            return Here()
        case "ray":
            return RayActors(timeout=recipe.timeout)
        case transport:
            return Processes(transport, timeout=recipe.timeout)


def channel_of(source: Mapping[str, Any]) -> Channel:
    """The channel that a recipe describes by its kind and options. Raises `RecipeError`."""
    options = dict(source)
    if "kind" not in options:
        raise RecipeError(f"the channel {options} has no kind; add for example kind: text")
    kind = options.pop("kind")
    try:
        return make_channel(kind, **options)
    except (ValueError, TypeError, OSError, UnspokenError) as error:
        if isinstance(error, UnspokenError) and not isinstance(error, SettingsError):
            raise
        raise RecipeError(f"the channel {kind!r} cannot be made with {options}: {error}") from error


def _agent(source: AgentSource, load: Callable[[str], LanguageModel]) -> Agent:
    return agent_of(source, load(source.model))


def agent_of(source: AgentSource, model: Model) -> Agent:
    """The agent that a recipe describes, on a model that is loaded already."""
    role = Role(
        instructions=source.instructions,
        template=source.template,
        message=source.message,
        document=source.document,
        chat=source.chat,
        template_options=source.template_options,
        first=source.first,
        reuse=source.reuse,
        candidates=source.candidates,
    )
    settings = Settings(
        max_tokens=source.max_tokens,
        stop=source.stop,
        temperature=source.temperature,
        top_p=source.top_p,
        seed=source.seed,
    )
    if source.canvas is not None:
        settings = source.canvas.denoising(source.stop)
    return Agent(source.name, model, role=role, settings=settings)
