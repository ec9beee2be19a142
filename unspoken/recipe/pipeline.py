"""Pipelines from recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from typing import Any

from unspoken.agents import Agent, Role
from unspoken.anchors import AnchorPool
from unspoken.channels import Channel, make_channel
from unspoken.engines import load_in
from unspoken.errors import RecipeError, SettingsError, UnspokenError
from unspoken.executors import Executor, Here, Processes, RayActors
from unspoken.pipeline import Edge, Pipeline
from unspoken.protocols import Model
from unspoken.recipe.config import PipelineRecipe
from unspoken.recipe.parts import AgentSource, UntilSource
from unspoken.sessions import Session
from unspoken.types import Settings
from unspoken.until import Pattern, Phrase, Until

__all__ = ["agent_of", "build", "channel_of", "session_of", "until_of"]


Load = Callable[..., Model]
"""Loads a model by name, for `engine`, `dtype` and `device`."""


def build(recipe: PipelineRecipe, load: Load = load_in) -> Pipeline:
    """Make the pipeline. Here each model is loaded once, elsewhere once for each agent.

    load: what several pipelines load their models with, so that they share them.
    """
    edges: list[Edge] = []
    for source in recipe.edges:
        channel = channel_of(source.channel)
        edges.append(Edge(source.sender, source.receiver, channel, source.pack, source.shadow))
    loads = partial(load, dtype=recipe.dtype, device=recipe.device)
    loads = cache(loads) if recipe.executor == "here" else loads
    agents = [partial(_agent, source, loads) for source in recipe.agents]
    return Pipeline(
        agents,
        edges,
        rounds=recipe.rounds,
        until=None if recipe.until is None else until_of(recipe.until),
        answer=recipe.answer,
        executor=_executor(recipe),
    )


def session_of(recipe: PipelineRecipe, pipeline: Pipeline) -> Session:
    """A conversation with the pipeline of a recipe, as the recipe says."""
    given = recipe.session
    pool = AnchorPool("exact", budget=given.budget)
    return pipeline.session(keep=given.keep, window=given.window, pool=pool)


def until_of(source: UntilSource) -> Until:
    """The rule that a recipe describes. Raises `RecipeError` for a function that is not there."""
    if source.phrase is not None:
        return Phrase(source.phrase, source.agent)
    if source.pattern is not None:
        return Pattern(source.pattern, source.agent)
    assert source.function is not None, "a rule is one of three"
    module, _, name = source.function.partition(":")
    try:
        found: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"until names {source.function!r}, which cannot be imported: {error}; give module:name "
            "of a function that takes a run"
        ) from error
    return found


def _executor(recipe: PipelineRecipe) -> Executor:
    match recipe.executor:
        case "here":
            return Here()
        case "ray":
            return RayActors(timeout=recipe.timeout)
        case transport:
            return Processes(transport, timeout=recipe.timeout, python=recipe.python)


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


def _agent(source: AgentSource, load: Load) -> Agent:
    return agent_of(source, load(source.model, engine=source.engine))


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
