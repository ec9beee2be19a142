"""A trained pair in its folder: all but the weights, so that one call makes its pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from unspoken import kept
from unspoken.agents import Agent
from unspoken.backbone import load_model
from unspoken.errors import Damaged, IncompatibleModels, PairError, TrainingError, UnknownName
from unspoken.files import write_text
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import load_projector
from unspoken.projectors.load import PAIR
from unspoken.protocols import Model, device_of
from unspoken.recipe.parts import AgentSource, AnyProjector, CanvasSettings, Part
from unspoken.recipe.pipeline import agent_of
from unspoken.relay.relay import Relay
from unspoken.relay.trained import trained_channel
from unspoken.tasks import Protocol
from unspoken.types import Denoising
from unspoken.wire import Packing

__all__ = ["Pair", "PairedAgent", "load_pipeline"]


class PairedAgent(Part):
    """One of the two agents: its prompts and settings, and the weights that its model had."""

    agent: AgentSource
    dtype: str
    weights: str
    tokenizer: str

    @classmethod
    def of(cls, agent: Agent) -> PairedAgent:
        """The settings of an agent. Raises `TrainingError` if a file cannot keep them."""
        spec, settings = agent.spec, agent.settings
        folder = Path(spec.name)
        source = AgentSource(
            name=agent.name,
            model=str(folder.resolve()) if folder.is_dir() else spec.name,
            **asdict(agent.role),
            max_tokens=settings.max_tokens,
            stop=tuple(settings.stop),
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed if isinstance(settings.seed, int) else 0,
            canvas=_canvas(settings) if isinstance(settings, Denoising) else None,
        )
        again = agent_of(source, agent.model)
        if (again.role, again.settings, None) != (agent.role, settings, agent.soft):
            raise TrainingError(
                f"{PAIR} cannot keep the agent {agent.name!r}: it has free vectors, or a setting "
                f"that no recipe knows, in {settings}; let the trained channel leave them out"
            )
        return cls(agent=source, dtype=spec.dtype, weights=spec.weights, tokenizer=spec.tokenizer)


def _canvas(settings: Denoising) -> CanvasSettings:
    more = {
        name: getattr(settings, name) for name in CanvasSettings.model_fields if name != "tokens"
    }
    return CanvasSettings(tokens=settings.max_tokens, **more)


class Pair(Part):
    """The content of the file pair.json: two agents, and the channel that was trained between them.

    projector: its settings, as the recipe gave them. pack: how messages travel.
    """

    version: Literal[1] = 1
    projector: AnyProjector
    protocol: Protocol
    pack: Packing
    sender: PairedAgent
    receiver: PairedAgent

    @classmethod
    def of(cls, relay: Relay, pipeline: Pipeline) -> Pair:
        """The pair of a relay, from the pipeline over its trained channel."""
        (edge,) = pipeline.edges
        return cls(
            projector=relay.recipe.projector,
            protocol=relay.task.protocol,
            pack=edge.pack,
            sender=PairedAgent.of(pipeline.agents[edge.sender]),
            receiver=PairedAgent.of(pipeline.agents[edge.receiver]),
        )

    @classmethod
    def read(cls, home: Path) -> Pair:
        """The pair of a folder. Raises `PairError`."""
        path = home / PAIR
        if not path.exists():
            raise PairError(
                f"{home} has no {PAIR}, which says what its two agents read, as it was trained by "
                "an earlier version; run `unspoken train` with the recipe that it was trained by, "
                "to the same out: the weights stay, and the file is added"
            )
        try:
            return cls.model_validate(kept.read_json(path))
        except Damaged as error:
            raise PairError(f"{error}; remove it and train again") from error
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            raise PairError(f"{path} cannot be used: {place}: {wrong['msg']}") from error

    def usage(self, home: Path) -> str:
        """How to use the pair once it is in `home`, for its card."""
        asked = {"context": "Ada keeps a parrot.", "question": "What does Ada keep?"}
        if self.protocol == "closed":
            del asked["context"]
        query = json.dumps(asked)
        return (
            "\n## Use\n\n```python\nfrom unspoken import load_pipeline\n\n"
            f'pipeline = load_pipeline("{home.as_posix()}")\n'
            f"run = pipeline.run({query})\nprint(run.answer)\n```\n\n"
            "Both models are loaded by the names above. `sender=` and `receiver=` take other names "
            "or folders, and loaded models, with the same weights.\n"
        )

    def write(self, folder: Path) -> None:
        content = kept.digested(self.model_dump(mode="json"))
        write_text(folder / PAIR, json.dumps(content, indent=1) + "\n")

    def __str__(self) -> str:
        settings = self.projector.model_dump(exclude={"kind"}, exclude_defaults=True)
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        sender, receiver = self.sender.agent.model, self.receiver.agent.model
        more = f", {shown}" if shown else ""
        return f"{self.projector.kind} from {sender} to {receiver}{more}"


def load_pipeline(
    folder: str | Path,
    *,
    sender: str | Model | None = None,
    receiver: str | Model | None = None,
    device: str | None = None,
) -> Pipeline:
    """The pipeline of a trained pair, as it was trained: same prompts, settings and weights.

    folder: the `out` of a recipe that trained one pair, or the folder below it that training named.
    sender, receiver: other names or folders of the two models, or models that are loaded already.
    Without them both are loaded by the names that they had. device: where models that are loaded
    here are put. No task and no recipe is needed.

    Raises `PairError` if the folder holds no pair, several of them, or one whose models are not
    here. Raises `IncompatibleModels` if a model has other weights than the trained one had.

    >>> from tempfile import mkdtemp
    >>> from unspoken.recipe import load_recipe
    >>> from unspoken.relay.relay import Relay
    >>> from unspoken.relay.train import train_projector
    >>> from unspoken.tasks import load_task
    >>> from unspoken.testing import tiny_backbone
    >>> short = ["task={name: people, size: 50}", "prompts={shots: 0, note_instructions: ''}"]
    >>> recipe = load_recipe("mixing", short)
    >>> models = tiny_backbone("gemma", width=24), tiny_backbone("llama")
    >>> folder = Path(mkdtemp())
    >>> relay = Relay(recipe, *models, load_task(recipe.task))
    >>> _ = train_projector(relay, folder / "trained")

    >>> pipeline = load_pipeline(folder, sender=models[0], receiver=models[1])
    >>> run = pipeline.run({"context": "Ada keeps a parrot.", "question": "What does Ada keep?"})
    >>> [turn.agent for turn in run.turns]
    ['sender', 'receiver']
    """
    home = _home(Path(folder))
    pair = Pair.read(home)
    load = cache(partial(load_model, device=device))  # a model on both sides is loaded once
    agents = [
        agent_of(side.agent, _model(name, side, given, load, home))
        for name, side, given in (
            ("sender", pair.sender, sender),
            ("receiver", pair.receiver, receiver),
        )
    ]
    projector = load_projector(home).to(device_of(agents[1].model))
    channel = trained_channel(pair.projector.kind).channel(projector, pair.projector)
    return Pipeline(agents, [Edge(agents[0].name, agents[1].name, channel, pair.pack)])


def _model(
    side: str,
    paired: PairedAgent,
    given: str | Model | None,
    load: Callable[..., Model],
    home: Path,
) -> Model:
    """The model of one side, with the weights and the tokenizer that it was trained with."""
    if given is not None and not isinstance(given, str):
        model = given
    else:
        name = given or paired.agent.model
        try:
            model = load(name, dtype=paired.dtype)
        except UnknownName as error:
            raise PairError(
                f"the {side} of {home} is {name!r}, which cannot be loaded here: {error}. Give its "
                f"folder, its name or the model itself: load_pipeline({str(home)!r}, {side}=...)"
            ) from error
    spec = model.spec
    for what in ("weights", "tokenizer"):
        then, now = getattr(paired, what), getattr(spec, what)
        if then != now and not (what == "weights" and spec.is_known_as(then)):
            raise IncompatibleModels(
                f"the pair of {home} was trained with {side} {what} {then}, of "
                f"{paired.agent.model!r}, but {model.spec.name!r} has {now}; use that model as "
                f"{side}"
            )
    return model


def _home(folder: Path) -> Path:
    """The folder of the one trained projector in `folder`. Raises `PairError`."""
    if (folder / "config.json").exists():
        return folder
    below = (*folder.glob("projector-*"), *folder.glob("trained/projector-*"))
    found = sorted(home for home in below if (home / "config.json").exists())
    if not found:
        raise PairError(
            f"{folder} holds no trained pair; give the `out` of a recipe that trained one, or the "
            f"folder that `unspoken train` named at its end"
        )
    if len(found) > 1:
        shown = "; ".join(f"{home}: {_described(home)}" for home in found)
        raise PairError(f"{folder} holds {len(found)} trained pairs; name one of them: {shown}")
    return found[0]


def _described(home: Path) -> str:
    try:
        return str(Pair.read(home))
    except PairError:
        return f"no {PAIR} that can be read"
