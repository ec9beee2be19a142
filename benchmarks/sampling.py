"""Sampled answers in batches of every size and from many tasks at once: are they the same?

    python benchmarks/sampling.py
    python benchmarks/sampling.py --items 200 --out benchmarks/results/sampling.json

A scout reads a QASC fact and notes it, a solver answers; both sample at temperature 1, in float32.
`run` alone is compared with `run_many` in batches and with `arun` of many items at once. Where two
answers differ, the words up to the first that differs are read again: a *near-tie* is a draw in
which the two words were closer than 1e-3 nats, so that rounding decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from unspoken import Agent, Backbone, Edge, Pipeline, Role, Run, Settings, TextChannel, load_task
from unspoken.agents import Incoming
from unspoken.backbone.generation import Row, Sampler
from unspoken.evaluation.items import query
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.runs import fields_of
from unspoken.tasks import TaskSource

NEAR = 1e-3


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--items", type=int, default=200)
    options.add_argument("--at-once", type=int, default=16)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    torch.set_num_threads(1)
    model = Backbone.from_pretrained(given.model, dtype="float32")
    pipeline = pair_of(model)
    items = load_task(TaskSource(name="qasc")).test[: given.items]
    queries = [query(item) for item in items]
    shown = Console(stderr=True)
    alone = [pipeline.run(q) for q in track(queries, "alone", console=shown, transient=True)]
    arms: dict[str, Any] = {}
    for size in (2, 8, 16):
        start = perf_counter()
        runs = pipeline.run_many(queries, batch_size=size, progress=f"batches of {size}")
        arms[f"batches of {size}"] = compared(pipeline, queries, alone, runs, start)
    start = perf_counter()
    runs = asyncio.run(at_once(pipeline, queries, given.at_once))
    arms[f"{given.at_once} at once"] = compared(pipeline, queries, alone, runs, start)
    table = Table("arm", "items", "differ", "near-ties", "not explained", "seconds")
    for name, found in arms.items():
        cells = (len(queries), found["differ"], len(found["near"]), found["unexplained"])
        table.add_row(name, *map(str, cells), f"{found['seconds']:.0f}")
    Console().print(table)
    if given.out:
        content = {"machine": about_machine(), "model": given.model, "arms": arms}
        write_text(given.out, json.dumps(content, indent=1) + "\n")


def pair_of(model: Backbone) -> Pipeline:
    settings = Settings(max_tokens=24, temperature=1.0, seed=0)
    note = Role("Write a short note about the fact.", "{context}")
    scout = Agent("scout", model, role=note, settings=settings)
    solver = Agent("solver", model, role="Answer the question.", settings=settings)
    return Pipeline([scout, solver], [Edge("scout", "solver", TextChannel())])


async def at_once(pipeline: Pipeline, queries: list[Any], count: int) -> list[Run]:
    gate = asyncio.Semaphore(count)

    async def ask(one: Any) -> Run:
        async with gate:
            return await pipeline.arun(one)

    return await asyncio.gather(*map(ask, queries))


def compared(
    pipeline: Pipeline, queries: list[Any], alone: list[Run], runs: list[Run], start: float
) -> dict[str, Any]:
    """How many items differ, and by how little the first word that differs won."""
    seconds, near, unexplained = perf_counter() - start, list[dict[str, Any]](), 0
    differ = [n for n, (a, b) in enumerate(zip(alone, runs, strict=True)) if texts(a) != texts(b)]
    for n in differ:
        gap = gap_of(pipeline, queries[n], alone[n], runs[n])
        if gap < NEAR:
            near.append({"item": n, "nats": gap})
        else:
            unexplained += 1
    return {"differ": len(differ), "near": near, "unexplained": unexplained, "seconds": seconds}


def texts(run: Run) -> list[str | None]:
    return [turn.text for turn in run.turns]


@torch.no_grad()
def gap_of(pipeline: Pipeline, asked: Any, one: Run, other: Run) -> float:
    """How much likelier, with its noise, the one run's first differing word was than the other's.

    Words are written again as tokens: by the turn in which the texts differ first.
    """
    pairs = zip(texts(one), texts(other), strict=True)
    step = next(n for n, (a, b) in enumerate(pairs) if a != b)
    turn = one.turns[step]
    agent, fields = pipeline.agents[turn.agent], fields_of([asked])
    incoming = []
    if step:
        edge = pipeline.edges[0]
        state, _ = pipeline.agents[edge.sender].compute(fields, needs=edge.needs)
        incoming = [Incoming(edge.channel, edge.send(state))]
    context = agent.read(fields, incoming).context
    settings = agent.settings_for(fields)
    model: Any = agent.model
    ids = model.write(context, settings).ids[0]
    (seed,) = settings.seed if isinstance(settings.seed, tuple) else (settings.seed,)
    sampler = Sampler([Row(settings, seed)], model.device)
    text = model.tokenizer.decode
    for place in range(len(ids)):
        logits = model.model(
            torch.tensor([[*read_ids(model, agent, fields, incoming), *ids[:place]]])
        )
        scores = sampler(None, logits.logits[:, -1])[0]
        first, second = scores.topk(2).values.tolist()
        if first - second < NEAR and not (other.turns[step].text or "").startswith(
            text(ids[: place + 1], skip_special_tokens=True)
        ):
            return first - second
    return float("inf")


def read_ids(model: Any, agent: Agent, fields: Any, incoming: Any) -> list[int]:
    parts = model.lay_out(agent.prompt(fields, incoming))
    return [token for part in parts for token in part.ids[0][part.mask[0]].tolist()]


if __name__ == "__main__":
    main()
