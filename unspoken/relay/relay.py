"""The relay: a sender reads a fact, a receiver is asked about it. Prompts, agents, pipelines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from unspoken.agents import Agent, Role
from unspoken.agents.memoized import MemoizedAgent
from unspoken.agents.searching import SearchingAgent
from unspoken.backbone import Backbone, LanguageModel, causal, load_model
from unspoken.channels import Channel, Constant, Handoff, TextChannel
from unspoken.engines import VllmModel
from unspoken.evaluation.expected import expected_answer
from unspoken.pipeline import Edge, Pipeline
from unspoken.projectors import FreeVectors
from unspoken.protocols import Model
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.parts import ModelSource
from unspoken.tasks import Item, Protocol, Task, load_task
from unspoken.types import Settings
from unspoken.wire import LOSSLESS

__all__ = ["Relay", "note_role"]


_ASKED = "Question: {question}\nAnswer:"


@dataclass(frozen=True)
class Relay:
    """Two loaded models and a task, and the agents that a recipe makes of them.

    engine: the receiver in an engine, which then answers in its place. Nothing can be trained then.
    """

    recipe: RelayRecipe
    sender: LanguageModel
    receiver: Backbone
    task: Task
    engine: VllmModel | None = None

    @classmethod
    def of(cls, recipe: RelayRecipe) -> Relay:
        """Read the task, then load the models: what is cheap to refuse comes first."""
        task = load_task(recipe.task)
        pair = recipe.pair
        sender = _load(pair.sender)
        receiver = sender if pair.receiver == pair.sender else _load(pair.receiver)
        return cls(recipe, sender, causal(receiver, "the receiver of a relay answers from"), task)

    @property
    def answering(self) -> Model:
        """The receiver as it answers."""
        return self.receiver if self.engine is None else self.engine

    @property
    def sending(self) -> Model:
        """The sender as it reads: with the receiver if both are one model."""
        return self.answering if self.sender is self.receiver else self.sender

    @property
    def shots(self) -> list[Item]:
        """The worked examples: training items drawn by seed, never trained on."""
        rng = Random(self.recipe.seed)
        return rng.sample(self.task.train, min(self.recipe.prompts.shots, len(self.task.train)))

    @property
    def train(self) -> list[Item]:
        """Training items whose fact is in no worked example."""
        shown = {item.context for item in self.shots}
        items = [item for item in self.task.train if item.context not in shown]
        most = self.recipe.items or len(items)
        return items if most >= len(items) else Random(self.recipe.seed).sample(items, most)

    @property
    def validation(self) -> list[Item]:
        """The held-out items that choose the best weights."""
        return list(self.task.validation[: self.recipe.validation])

    @property
    def instructions(self) -> str:
        """What the receiver reads first: the instruction and the worked examples."""
        shots = "".join(
            f"{self._fact(item)}Question: {item.question}\nAnswer: {item.answers[0]}\n\n"
            for item in self.shots
        )
        return f"{self.recipe.prompts.instruction}\n\n{shots}"

    def instruction(self, count: int) -> Tensor:
        """The start of free vectors: embeddings (count, W) of the instruction, repeated."""
        words = self.receiver.tokens(self.recipe.prompts.instruction)
        ids = (words * (count // len(words) + 1))[:count]
        return self.receiver.embed(torch.tensor(ids, dtype=torch.long, device=self.receiver.device))

    def _fact(self, item: Item) -> str:
        return "" if self.task.protocol == "closed" else f"Fact: {item.context}\n"

    @property
    def template(self) -> str:
        """An item as the receiver reads it, and where messages go."""
        match self.task.protocol:
            case "private":
                return f"Fact:{{messages}}\n{_ASKED}"
            case "shared":
                return f"Fact: {{context}}{{messages}}\n{_ASKED}"
            case "closed":
                return f"{{messages}}{_ASKED}"

    def answer(self, agent: Agent, item: Item) -> str:
        """The right answer as an agent writes it, and a new line: a receiver is trained to end with
        one."""
        return expected_answer(agent, item, end="\n")

    def solver(self, soft: FreeVectors | None = None, *, handed: bool = False) -> Agent:
        """The receiver; with `soft` it is a tuned reader. `handed`: the fact is in its cache."""
        template = self.template
        if handed:  # what is in its cache ends with the fact
            shared = self.task.protocol == "shared"
            template = f"\n{template}" if shared else template.removeprefix("Fact:")
        message = "Hint:{message}\n" if self.task.protocol == "closed" else "{message}"
        role = Role(instructions=self.instructions, template=template, message=message, chat=False)
        settings = Settings(max_tokens=self.recipe.prompts.answer_tokens, stop=("\n",))
        return Agent("receiver", self.answering, role=role, settings=settings, soft=soft)

    def continuer(self) -> Agent:
        """The receiver as it goes on after a fact, see `continuations`."""
        role = Role(self.instructions, "Fact:{messages}\n", message="{message}", chat=False)
        return Agent("receiver", self.receiver, role=role)

    @staticmethod
    def continuations(item: Item) -> tuple[str, ...]:
        """What may come after a fact: its question with the answer, and the fact again."""
        return (
            f"Question: {item.question}\nAnswer: {item.answers[0]}\n\n",
            f"Fact: {item.context}\n",
        )

    def reader(self) -> Agent:
        """The sender as it reads for a latent channel: the fact, and nothing else."""
        return Agent("sender", self.sending, role=Role(template=" {context}", chat=False))

    def sharer(self) -> Agent:
        """The sender as it reads for fusion: the same words as the receiver."""
        template = self.template.replace("{messages}", "")
        return Agent("sender", self.sending, role=Role(self.instructions, template, chat=False))

    @property
    def canvas(self) -> bool:
        """Whether the sender writes by diffusion. Then its states are also those of its note."""
        return self.sender.spec.states == "written"

    @property
    def most(self) -> int:
        """The most tokens of a note."""
        recipe = self.recipe
        return recipe.planning.tokens if self.canvas else recipe.prompts.note_tokens

    @cached_property
    def writer(self) -> Agent:
        """The sender as it writes a note about the fact, or without one about the question."""
        role = note_role(self.recipe.prompts.note_instructions, self.task.protocol)
        settings = Settings(max_tokens=self.most, stop=("\n",))
        if self.canvas:
            settings = self.recipe.planning.denoising(stop=("\n",))
        return MemoizedAgent("sender", self.sending, role=role, settings=settings)

    def handoff_sender(self) -> Agent:
        """The sender as it reads for a hand-over: what the receiver would have read."""
        return Agent(
            "sender",
            self.sending,
            role=Role(instructions=self.instructions, template="Fact: {context}", chat=False),
        )

    def decider(self) -> Pipeline:
        """The sender alone: it reads the fact and is asked as a receiver would be."""
        template = self.template.replace("{messages}", " {context}")
        role = Role(instructions=self.instructions, template=template, chat=False)
        return Pipeline([Agent("sender", self.sending, role=role)])

    def restating(self, pipeline: Pipeline) -> Pipeline:
        """The same sender and channel to a receiver that restates the message in its own words."""
        prompts, last = self.recipe.prompts, pipeline.answerer
        settings = Settings(max_tokens=prompts.note_tokens, stop=("\n",))

        def taking_notes(agent: Agent) -> Agent:  # also a sender with the receiver's instructions
            if agent is not last and agent.role.instructions != self.instructions:
                return agent
            template = agent.role.template.replace(_ASKED, "Note:")
            role = replace(agent.role, instructions=prompts.note_instructions, template=template)
            wrote = settings if agent is last else agent.settings
            return replace(agent, role=role, settings=wrote, soft=None)  # it was tuned to answer

        return Pipeline([taking_notes(agent) for agent in pipeline.agents.values()], pipeline.edges)

    def pair(self, sender: Agent, channel: Channel, solver: Agent) -> Pipeline:
        comparison = self.recipe.comparison
        pack = LOSSLESS if comparison is None else comparison.pack
        return Pipeline([sender, solver], [Edge(sender.name, solver.name, channel, pack)])

    def full_text(self, soft: FreeVectors | None = None, limit: int | None = None) -> Pipeline:
        """The ceiling: the fact itself, word for word, or its first `limit` tokens."""
        channel = TextChannel(verbatim=True, limit=limit)
        return self.pair(self.reader(), channel, self.solver(soft))

    def text(self, soft: FreeVectors | None = None, limit: int | None = None) -> Pipeline:
        """The sender's note, or its first `limit` tokens."""
        channel = TextChannel(limit=min(limit or self.most, self.most))
        return self.pair(self.writer, channel, self.solver(soft))

    def sentences(self, soft: FreeVectors | None = None, count: int = 1) -> Pipeline:
        """The `count` sentences of the fact that fit the question best, which the sender knows."""
        searcher = SearchingAgent("sender", self.sending, count=count)
        return self.pair(searcher, TextChannel(), self.solver(soft))

    def handoff(self, soft: FreeVectors | None = None) -> Pipeline:
        """The receiver's weights have read the fact, after the same instructions and vectors."""
        sender = replace(self.same_model.handoff_sender(), soft=soft)
        return self.pair(sender, Handoff(), self.solver(handed=True))

    def pipeline_over(self, channel: Channel) -> Pipeline:
        """The sender sends over any channel. What it reads follows from what the channel does.

        For a cache that becomes the receiver's own, it reads what the receiver would have read. For
        a channel that fuses, both read the same words. For a channel that needs writing it writes a
        note. A diffusion model also writes a note, as it has no other states. For all others it
        reads the fact alone.
        """
        if channel.own_cache:
            return self.pair(self.handoff_sender(), channel, self.solver(handed=True))
        if type(channel).fuse is not Channel.fuse:
            return self.pair(self.sharer(), channel, self.solver())
        if any(need.writes for need in channel.needs) or (self.canvas and channel.needs):
            return self.pair(self.writer, channel, self.solver())
        return self.pair(self.reader(), channel, self.solver())

    @cached_property
    def same_model(self) -> Relay:
        """The same relay with the receiver's weights on both sides."""
        return replace(self, sender=self.receiver)

    def samples(self, count: int = 8) -> list[tuple[str, str]]:
        """Facts and the questions after them, for channels that are calibrated on the receiver."""
        items = Random(self.recipe.seed).sample(self.train, min(count, len(self.train)))
        return [
            (f"Fact: {item.context}", f"\nQuestion: {item.question}\nAnswer:") for item in items
        ]

    def without_messages(self) -> Pipeline:
        """The receiver without any message."""
        return Pipeline([self.solver()])

    def constant(self, vectors: FreeVectors) -> Pipeline:
        return self.pair(self.reader(), Constant(vectors), self.solver())

    def oracle(self) -> Pipeline:
        """The receiver's own cache of the fact, read after worked examples that it never sees.

        Cache-to-Cache (arXiv 2510.03215), section 3.1: the gain of a better cache alone, without
        training.
        """
        sender = Agent("sender", self.answering, role=self.handoff_sender().role)
        solver = self.solver(handed=True)
        bare = Agent(
            "receiver",
            self.answering,
            role=replace(solver.role, instructions=""),
            settings=solver.settings,
        )
        return self.pair(sender, Handoff(opening=False), bare)


def note_role(instructions: str, protocol: Protocol) -> Role:
    """What a sender reads before it writes a note: instructions, and the fact or the question."""
    about = "Question: {question}" if protocol == "closed" else "Fact: {context}"
    return Role(instructions=instructions, template=f"{about}\nNote:", chat=False)


def _load(source: ModelSource) -> LanguageModel:
    return load_model(source.model, dtype=source.dtype, device=source.device)
