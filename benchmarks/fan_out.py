"""Agents that do not hear one another, side by side and one after another, on one model.

    python benchmarks/fan_out.py
    python benchmarks/fan_out.py --agents 4 --rounds 3 --out benchmarks/results/fan-out.json

Each agent has instructions of its own and writes about the same question. Three arms take turns in
one process: `Pipeline.run`, the same agents one after another, and, as the limit, one `generate` of
transformers over all prompts in one batch. The words of all arms are compared. Seconds are those of
the clock and of the processor; where other work runs beside, the latter say more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import GenerationConfig

from unspoken import Agent, Backbone, Edge, Pipeline, Role, Settings, TextChannel
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.runs import fields_of
from unspoken.testing import ScriptedModel

QUESTION = "Name a good reason to plant trees in a city, and explain it."
VIEWS = ("doctor", "baker", "judge", "child", "pilot", "farmer", "poet", "nurse")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--agents", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    torch.set_num_threads(1)
    model = Backbone.from_pretrained(given.model, dtype="float32")
    settings = Settings(max_tokens=given.tokens)
    agents = [
        Agent(f"{view} {n}", model, role=f"You are a {view}. Answer as one.", settings=settings)
        for n, view in enumerate((VIEWS * given.agents)[: given.agents])
    ]
    seconds: dict[str, list[float]] = {"side by side": [], "one by one": [], "limit": []}
    busy: dict[str, list[float]] = {name: [] for name in seconds}
    words: dict[str, list[str]] = {}
    arms: dict[str, Callable[[], list[str]]] = {
        "side by side": lambda: side_by_side(agents),
        "one by one": lambda: one_by_one(agents),
        "limit": lambda: limit(model, agents, given.tokens),
    }
    side_by_side(agents[:1])  # proofs on the model come first
    for _ in track(range(given.rounds), "rounds", console=Console(stderr=True), transient=True):
        for name, arm in arms.items():
            start, began = perf_counter(), process_time()
            words[name] = arm()
            seconds[name].append(perf_counter() - start)
            busy[name].append(process_time() - began)
    same = {
        name: sum(a == b for a, b in zip(words[name], words["one by one"], strict=True))
        for name in words
    }
    table = Table("arm", "seconds", "times faster", "CPU s", "times faster", "same answers")
    for name in seconds:
        cells = [name]
        for taken in (seconds, busy):
            faster = median(taken["one by one"]) / median(taken[name])
            cells += [f"{median(taken[name]):.2f}", f"{faster:.2f}"]
        table.add_row(*cells, f"{same[name]} of {given.agents}")
    Console().print(table)
    if given.out:
        about = {"model": given.model, "agents": given.agents, "tokens": given.tokens}
        content = {
            "machine": about_machine(),
            **about,
            "seconds": seconds,
            "cpu": busy,
            "same": same,
        }
        write_text(given.out, json.dumps(content, indent=1) + "\n")


def side_by_side(agents: list[Agent]) -> list[str]:
    """All agents, heard by a judge that writes nothing of its own."""
    judge = Agent("judge", ScriptedModel(lambda words: "done"), role=Role(chat=False))
    channel = TextChannel()
    pipeline = Pipeline([*agents, judge], [Edge(one.name, "judge", channel) for one in agents])
    return [turn.text or "" for turn in pipeline.run(QUESTION).turns[:-1]]


def one_by_one(agents: list[Agent]) -> list[str]:
    fields = fields_of([QUESTION])
    return [(agent.compute(fields)[0].text or ("",))[0] for agent in agents]


@torch.no_grad()
def limit(model: Backbone, agents: list[Agent], tokens: int) -> list[str]:
    """transformers alone: the prompts in one batch, padded left."""
    tokenizer = model.tokenizer
    prompts = [model.chat(agent.role.instructions, QUESTION) for agent in agents]
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(model.ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    out = model.model.generate(**inputs, generation_config=config)
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


if __name__ == "__main__":
    main()
