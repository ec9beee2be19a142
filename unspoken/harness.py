"""Run any lm-eval task on a pipeline: `import unspoken.harness` adds the model `unspoken`.

lm-eval (https://github.com/EleutherAI/lm-evaluation-harness) prepares the text of a request,
including worked examples, and counts right answers. On its own command line:

    python -m unspoken.harness run --model unspoken --model_args recipe=planner_solver --tasks TASK
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch

from unspoken.agents import Agent, Incoming
from unspoken.agents.continuations import assess
from unspoken.errors import DataError, MissingExtra, PipelineError
from unspoken.pipeline import Pipeline
from unspoken.runs import fields_of
from unspoken.types import FieldValue, Settings, Usage

try:
    from lm_eval.api import registry
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models import utils
except ModuleNotFoundError as error:
    raise MissingExtra(
        "tasks of lm-eval need the package of that name; install it with: "
        "pip install 'unspoken[lm-eval]'"
    ) from error

__all__ = ["PipelineLM", "Split", "parted", "shared"]

Split = Callable[[Instance], Mapping[str, Any]]
"""The parts of a request that agents read: {"question": ..., "context": ...}."""

_SHARED = "shared"
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


def shared(request: Instance) -> dict[str, str]:
    """All agents read the whole request, as {question} or as {context}."""
    words = str(_arguments(request)[0])
    return {"question": words, "context": words}


def parted(marker: str) -> Split:
    """The text before the last `marker` is the {context}, and the rest is the {question}.

    Worked examples come before it, so they are read with the context. Raises `DataError` for a
    request without the marker.

    >>> ask = Instance("generate_until", {}, ("Ada keeps a parrot.\\nQuestion: Who?", {}), 0)
    >>> parted("Question:")(ask)
    {'context': 'Ada keeps a parrot.\\n', 'question': 'Question: Who?'}
    """

    def split(request: Instance) -> dict[str, str]:
        words = str(_arguments(request)[0])
        before, found, after = words.rpartition(marker)
        if not found:
            raise DataError(
                f"split={marker!r} is not in the request {words[:80]!r}; name words that "
                f"begin the receiver's part of every request, or use split={_SHARED!r}"
            )
        return {"context": before, "question": found + after}

    return split


class PipelineLM(LM):
    """A pipeline as a model of lm-eval.

    pipeline, or recipe: one of kind `pipeline`, by name or path, with overrides. split: what agents
    read of a request. `shared`: all agents read all of it. Other words: the text before their last
    occurrence is the {context}, and the rest is the {question}. A function: it returns the fields,
    made from the request and its `doc`.

    generate_until: the whole pipeline answers. The task's settings replace those of the answering
    agent, and the others keep theirs. loglikelihood: the other agents send their messages, and the
    answering agent scores each continuation after them. So multiple choice tasks work.
    loglikelihood_rolling is refused, since running text has no question before it. usage: the cost
    of all agents so far, of generate_until alone. Raises `PipelineError`, `RecipeError`, and
    `DataError` for requests that cannot be split or unknown settings.

    >>> from unspoken.testing import tiny_backbone
    >>> lm = PipelineLM(Pipeline([Agent("solver", tiny_backbone())]))
    >>> len(lm.loglikelihood([Instance("loglikelihood", {}, ("1 + 1 =", " 2"), 0)]))
    1
    """

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        recipe: str = "",
        overrides: Sequence[str] = (),
        split: str | Split = _SHARED,
        batch_size: int | str = 16,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if (pipeline is None) == (not recipe):
            raise PipelineError("give either a pipeline or recipe=NAME, a recipe of kind pipeline")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise PipelineError(f"batch_size is a number of items, got {batch_size!r}; give 16")
        self.pipeline = pipeline or _built(recipe, [*overrides, *_placed(device)])
        self.batch_size, self.usage = int(batch_size), Usage()
        if split == _SHARED:
            _check_shared(self.pipeline.agents.values())
        self.named = split if isinstance(split, str) else getattr(split, "__name__", "a function")
        self.split = _split(split) if isinstance(split, str) else split

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers of the pipeline, each up to the first of `until`."""
        groups: dict[Settings, list[int]] = {}
        for n, request in enumerate(requests):
            groups.setdefault(_settings(_arguments(request)[1]), []).append(n)
        found = [""] * len(requests)
        for settings, members in groups.items():
            runs = self.pipeline.with_answer_settings(settings).run_many(
                [self.split(requests[n]) for n in members],
                batch_size=self.batch_size,
                progress="" if disable_tqdm else "lm-eval, answers",
            )
            for n, run in zip(members, runs, strict=True):
                self.usage += run.usage
                found[n] = run.turns[-1].text or ""
                self.cache_hook.add_partial("generate_until", _arguments(requests[n]), found[n])
        return found

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p of each continuation in nats, and whether greedy decoding would write it.

        The answering agent computes both after the messages of all others. A continuation is
        tokenised together with the text before it. Requests that ask the same get the same
        messages, which are sent once.
        """
        asked: dict[tuple[tuple[str, FieldValue], ...], list[int]] = {}
        for n, request in enumerate(requests):
            asked.setdefault(tuple(sorted(self._fields(request).items())), []).append(n)
        found: dict[int, tuple[float, bool]] = {}
        for fields, incoming in self._with_messages([dict(key) for key in asked]):
            members = asked[tuple(sorted(fields.items()))]
            for first in range(0, len(members), self.batch_size):
                part = members[first : first + self.batch_size]
                rows = self._scored(
                    fields, incoming, [str(_arguments(requests[n])[1]) for n in part]
                )
                found.update(zip(part, rows, strict=True))
        for n, request in enumerate(requests):
            self.cache_hook.add_partial("loglikelihood", _arguments(request), found[n])
        return [found[n] for n in range(len(requests))]

    def _fields(self, request: Instance) -> dict[str, FieldValue]:
        """What agents read of a request."""
        return {name: value for name, (value,) in fields_of([self.split(request)]).items()}

    def _with_messages(
        self, queries: Sequence[dict[str, FieldValue]]
    ) -> Iterator[tuple[dict[str, FieldValue], list[Incoming]]]:
        """Each question with the messages about it, of one row."""
        for first in range(0, len(queries), self.batch_size):
            batch = queries[first : first + self.batch_size]
            incoming = self.pipeline.incoming(batch) if self.pipeline.edges else []
            for row, query in enumerate(batch):
                yield query, [Incoming(one.channel, one.message.row(row)) for one in incoming]

    def _scored(
        self, fields: Mapping[str, FieldValue], incoming: Sequence[Incoming], answers: Sequence[str]
    ) -> list[tuple[float, bool]]:
        """One question's continuations, side by side in a batch."""
        losses, greedy = assess(self.pipeline.answerer, fields, incoming, answers)
        pairs = zip(
            cast(list[float], losses.tolist()), cast(list[bool], greedy.tolist()), strict=True
        )
        return [(-loss, same) for loss, same in pairs]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Refused with a `PipelineError`."""
        raise PipelineError(
            "the perplexity of running text needs only a model: it has no question before it that "
            "agents could send messages about. Tasks of generate_until, loglikelihood and multiple "
            "choice work; for this one use lm-eval's own model `hf`"
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Refused with a `PipelineError`."""
        raise PipelineError(
            "each agent puts a request into the chat template of its own model, as its role says; "
            "leave apply_chat_template off"
        )

    @property
    def tokenizer_name(self) -> str:
        """Refused with a `PipelineError`: lm-eval asks for it before `apply_chat_template`."""
        return self.apply_chat_template([])

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval keeps in its results: agents, channels, split, and the cost so far."""
        return {
            "agents": {
                name: f"{agent.spec.name} ({agent.spec.weights})"
                for name, agent in self.pipeline.agents.items()
            },
            "channels": [
                f"{edge.sender} to {edge.receiver}: {edge.channel.name}"
                for edge in self.pipeline.edges
            ],
            "split": self.named,
            "usage": asdict(self.usage),
        }


def _arguments(request: Instance) -> tuple[Any, ...]:
    """The words of a request, and its continuation or its settings."""
    return cast(tuple[Any, ...], request.args)


def _split(name: str) -> Split:
    return shared if name == _SHARED else parted(name)


def _placed(device: str | None) -> list[str]:
    """A recipe's override. lm-eval's command line gives cuda:0 even if no device is asked for."""
    absent = device is None or (device.startswith("cuda") and not torch.cuda.is_available())
    return [] if absent else [f"device={device}"]


def _built(recipe: str, overrides: Sequence[str]) -> Pipeline:
    from unspoken.recipe import PipelineRecipe, load_recipe
    from unspoken.recipe.pipeline import build

    plan = load_recipe(recipe, overrides)
    if type(plan) is not PipelineRecipe:
        kind = plan.kind_name()
        raise PipelineError(f"{recipe} is a recipe of kind {kind!r}; lm-eval takes a pipeline")
    return build(plan)


def _check_shared(agents: Iterable[Agent]) -> None:
    for agent in agents:
        names = [f"{{{name}}}" for name in agent.role.fields]
        if len(names) > 1:
            raise PipelineError(
                f"{agent.name!r} reads {' and '.join(names)}, and with split={_SHARED!r} each is "
                "the whole request; leave one in its template, or split at words like "
                "split=Question:"
            )


def _settings(given: Mapping[str, Any]) -> Settings:
    """The settings of a request. Raises `DataError` for settings that agents do not have."""
    wanted = cast(dict[str, Any], utils.normalize_gen_kwargs(dict(given)))
    if odd := set(wanted) - _KNOWN:
        raise DataError(
            f"the task sets {sorted(odd)} for generation, but agents take only {sorted(_KNOWN)}; "
            "change its generation_kwargs"
        )
    return Settings(
        max_tokens=wanted["max_gen_toks"],
        stop=tuple(stop for stop in wanted["until"] if stop),
        temperature=float(wanted.get("temperature", 1.0)) if wanted["do_sample"] else 0.0,
        top_p=float(wanted.get("top_p", 1.0)),
    )


# Importing lm_eval.models has registered lm-eval's models. Without it, ours would hide them.
registry.register_model("unspoken")(PipelineLM)

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
