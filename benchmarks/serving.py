"""Tokens per second of many users at once, beside one at a time and beside transformers.

    python benchmarks/serving.py
    python benchmarks/serving.py --users 16 --shapes 64+64 256+64 --rounds 3 --threads 2

Each user is a thread that reads a prompt of its own and writes, on one model in float32. Three arms
take turns within each round, so that what else the machine does meets all of them:

* alone: one request after the other, some of them, since their rate is what counts;
* scheduler: all users at once, by the model's scheduler;
* peer: transformers' own continuous batching (`generate_batch`), which takes token ids alone, on a
  second copy of the same weights.

No word ends an answer here, so all arms write equally many tokens. The limit is a plain pass of the
model over a batch of all users, times the tokens that each writes, and the time to read all prompts
one after the other: what a scheduler that costs nothing would take if it read and wrote in turns.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import ContinuousBatchingConfig, GenerationConfig

from unspoken import Backbone, Settings
from unspoken.backbone.attention import few_tokens
from unspoken.backbone.caches import growing_cache
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.tasks import packaged
from unspoken.types import Prompt, Text


class Endless(Backbone):
    """A model whose answers end at their limit alone."""

    @property
    def ends(self) -> tuple[int, ...]:
        return ()


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--users", type=int, default=16)
    options.add_argument("--alone", type=int, default=4, help="requests of the arm that is alone")
    options.add_argument("--shapes", nargs="+", default=["64+64", "256+64"], help="read+written")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--no-peer", action="store_true")
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = Endless.from_pretrained(given.model, dtype="float32")
    peer = None if given.no_peer else Backbone.from_pretrained(given.model, dtype="float32").model
    if peer is not None:
        peer.set_attn_implementation("sdpa")
    shapes = {}
    for shape in given.shapes:
        read, written = map(int, shape.split("+"))
        shapes[shape] = measured(model, peer, given, read, written)
        show(shape, shapes[shape])
    content = {
        "benchmark": "serving",
        "model": given.model,
        "users": given.users,
        "rounds": given.rounds,
        "threads": given.threads,
        "shapes": shapes,
        **about_machine(),
    }
    if given.out:
        write_text(given.out, json.dumps(content, indent=1) + "\n")


def prompts(model: Backbone, count: int, length: int) -> list[str]:
    """Different texts of exactly `length` tokens."""
    sentences = dict.fromkeys(item.context for item in packaged("squad_sentence")[0][:600])
    ids = model.tokens(" ".join(sentences))
    texts, at = list[str](), 0
    while len(texts) < count:
        text = model.tokenizer.decode(ids[at : at + length])
        if len(model.tokens(text)) == length:
            texts.append(text)
        at += 37
    return texts


def ask(model: Backbone, text: str, count: int) -> tuple[int, ...]:
    """What one user does."""
    read = model.read(Prompt((Text((text,)),)))
    return model.write(read.context, Settings(count)).ids[0]


def measured(model: Backbone, peer: Any, given: Any, read: int, written: int) -> dict[str, Any]:
    texts = prompts(model, given.users, read)
    ids = [model.tokens(text) for text in texts]
    rates: dict[str, list[float]] = {"alone": [], "scheduler": [], "peer": [], "limit": []}
    answers: dict[str, list[tuple[int, ...]]] = {}

    def alone() -> list[tuple[int, ...]]:
        return [ask(model, text, written) for text in texts[: given.alone]]

    def together() -> list[tuple[int, ...]]:
        with ThreadPoolExecutor(given.users) as users:
            return list(users.map(lambda text: ask(model, text, written), texts))

    def by_peer() -> list[tuple[int, ...]]:
        return generated(peer, ids, written)

    arms: dict[str, Callable[[], list[tuple[int, ...]]]] = {"alone": alone, "scheduler": together}
    if peer is not None:
        arms["peer"] = by_peer
    ask(model, texts[0], 4)  # what has to be found out about the model is known from now on
    work: dict[str, list[float]] = {name: [] for name in rates}
    for _ in range(given.rounds):
        for name, arm in arms.items():
            start, begun = perf_counter(), process_time()
            answers[name] = arm()
            tokens = sum(map(len, answers[name]))
            rates[name].append(tokens / (perf_counter() - start))
            work[name].append(tokens / (process_time() - begun))
        seconds, busy = limit(model, ids, written)
        rates["limit"].append(given.users * written / seconds)
        work["limit"].append(given.users * written / busy)
    same = [
        one == other for one, other in zip(answers["alone"], answers["scheduler"], strict=False)
    ]
    return {
        "tokens_per_second": rates,
        "tokens_per_cpu_second": work,
        "times_alone": times_alone(rates),
        "times_alone_by_cpu_seconds": times_alone(work),
        "same_as_alone": f"{sum(same)} of {len(same)}",
    }


def times_alone(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Each arm beside the arm that is alone, round by round: the median, and the ends."""
    found = {
        name: [r / alone for r, alone in zip(each, rates["alone"], strict=True)]
        for name, each in rates.items()
        if each and name != "alone"
    }
    return {
        name: {"median": median(each), "least": min(each), "most": max(each)}
        for name, each in found.items()
    }


def generated(peer: Any, ids: Sequence[Sequence[int]], written: int) -> list[tuple[int, ...]]:
    """What transformers' continuous batching writes."""
    config = GenerationConfig(max_new_tokens=written, do_sample=False, eos_token_id=-1)
    pool = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=1024, use_cuda_graph=False)
    found = peer.generate_batch(
        inputs=[list(row) for row in ids],
        generation_config=config,
        continuous_batching_config=pool,
        warmup=False,
    )
    return [tuple(found[key].generated_tokens) for key in sorted(found)]


@torch.no_grad()
def limit(model: Backbone, ids: Sequence[Sequence[int]], written: int) -> tuple[float, float]:
    """Seconds of the passes alone: all prompts, and `written` steps of the batch; CPU seconds."""
    start, begun = perf_counter(), process_time()
    for row in ids:
        model.body(input_ids=torch.tensor([row[:-1]]), use_cache=True)
    reading, busy = perf_counter() - start, process_time() - begun
    batch, slots = len(ids), len(ids[0]) + written // 2
    shape = [(batch, heads, slots, width) for heads, width, _ in model.shapes]
    cache = growing_cache(tuple((torch.zeros(one), torch.zeros(one)) for one in shape))
    start, begun, steps = perf_counter(), process_time(), 8
    with few_tokens():
        for n in range(steps):
            model.model(
                input_ids=torch.full((batch, 1), 100 + n),
                attention_mask=torch.ones(batch, slots + n + 1, dtype=torch.long),
                position_ids=torch.full((batch, 1), slots + n),
                past_key_values=cache,
                use_cache=True,
            )
    each, work = (perf_counter() - start) / steps, (process_time() - begun) / steps
    return reading + each * written, busy + work * written


def show(shape: str, found: dict[str, Any]) -> None:
    table = Table("arm", "tokens per second", "times alone", "by CPU seconds", title=shape)
    for name, rates in found["tokens_per_second"].items():
        if rates:
            kinds = ("times_alone", "times_alone_by_cpu_seconds")
            times = (found[kind].get(name, {"median": 1.0})["median"] for kind in kinds)
            table.add_row(name, f"{median(rates):.1f}", *(f"{one:.2f}" for one in times))
    Console().print(table)


if __name__ == "__main__":
    main()
