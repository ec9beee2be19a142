"""One pipeline in transformers and in vLLM: questions per second, equal answers, the first word.

    .venv-vllm/bin/python benchmarks/vllm_engine.py
    .venv-vllm/bin/python benchmarks/vllm_engine.py --items 16 --batches 8 --tokens 200 --rounds 2

Both run in this process, with one thread, on the same weights in float32. A solver answers QASC
questions with their facts in its prompt. transformers gets every batch size in turn, and the best
one counts. vLLM gets all items at once. Seconds are those of the clock and of the process's CPU:
where other work runs on the machine, the latter tell more.

The first word: a reader has read so many tokens, and its cache is handed over to a solver. It is
timed from the message to the solver's first token, in both, beside reading the same tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from os import getloadavg
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeVar

import torch

from unspoken import Agent, Backbone, Pipeline, Role, Settings, TaskSource, VllmModel, load_task
from unspoken.evaluation.items import query
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.protocols import Model
from unspoken.tasks import packaged
from unspoken.types import CACHE, CacheSegment, Prompt, Text

T = TypeVar("T")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--items", type=int, default=256)
    options.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    options.add_argument("--alone", action="store_true", help="questions without their facts")
    options.add_argument("--written", type=int, default=48, help="the most tokens of an answer")
    options.add_argument("--tokens", type=int, default=1000, help="of the cache handed over")
    options.add_argument("--rounds", type=int, default=7, help="of the first word")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/vllm.json"))
    given = options.parse_args()
    torch.set_num_threads(1)
    plain = Backbone.from_pretrained(given.model, dtype="float32")
    began = perf_counter()
    with VllmModel.from_pretrained(given.model, dtype="float32") as engine:
        start = perf_counter() - began
        result = {
            "benchmark": "vllm",
            "load before": getloadavg()[0],
            "seconds to start the engine": start,
            "first word": told(first_word(plain, engine, given.tokens, given.rounds)),
            "many": told(many(plain, engine, given)),
            "load after": getloadavg()[0],
            "vllm": import_module("vllm").__version__,
            "models": [{"name": plain.name, "fingerprint": plain.fingerprint}],
            **about_machine(),
        }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def told(found: dict[str, Any]) -> dict[str, Any]:
    """The same, shown at once."""
    print(json.dumps(found), flush=True)
    return found


def many(plain: Backbone, engine: VllmModel, given: argparse.Namespace) -> dict[str, Any]:
    """Questions per second of both, and how many answers are equal."""
    items = load_task(TaskSource()).test[: given.items]
    queries = [item.question if given.alone else query(item) for item in items]
    settings = Settings(max_tokens=given.written)

    def ask(model: Model, batch: int, some: Sequence[Any]) -> tuple[dict[str, float], list[str]]:
        short = Role("Answer the question in one short sentence.", "{context}\n{question}")
        role = Role("Explain your answer at length.", "{question}") if given.alone else short
        pipeline = Pipeline([Agent("solver", model, role=role, settings=settings)])
        clock, cpu = perf_counter(), process_time()
        runs = pipeline.run_many(some, batch_size=batch)
        took = {"seconds": perf_counter() - clock, "cpu seconds": process_time() - cpu}
        took["tokens written"] = sum(run.usage.written for run in runs)
        return told(took), [run.answer for run in runs]

    for model in (plain, engine):
        ask(model, 4, queries[-4:])  # warm
    by_size = {size: ask(plain, size, queries) for size in given.batches}
    best = min(given.batches, key=lambda size: by_size[size][0]["cpu seconds"])
    took, answers = ask(engine, len(queries), queries)
    pairs = list(zip(answers, by_size[best][1], strict=True))
    ratio = {kind: by_size[best][0][kind] / took[kind] for kind in ("seconds", "cpu seconds")}
    return {
        "items": len(queries),
        "transformers": {size: found for size, (found, _) in by_size.items()},
        "best batch": best,
        "vllm": took,
        "times as fast": ratio,
        "equal answers": sum(a == b for a, b in pairs),
        "unequal": [pair for pair in pairs if pair[0] != pair[1]],
    }


def first_word(plain: Backbone, engine: VllmModel, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds until the first word after a cache, and those of reading it."""
    words = " ".join(item.context for item in packaged("qasc")[0][: tokens // 4])
    long = plain.tokens(words)

    def texts(n: int) -> Prompt:  # other ones in every round, so that no blocks are shared
        return Prompt((Text((plain.tokenizer.decode(long[7 * n : 7 * n + tokens]),)),))

    def timed(model: Model, n: int) -> tuple[float, float]:
        read, cached = clocked(lambda: handed(model, texts(n)))
        first, _ = clocked(lambda: word(model, cached))
        return read, first

    found = {
        name: [timed(model, n) for n in range(rounds)]
        for name, model in (("transformers", plain), ("vllm", engine))
    }
    return {
        "tokens": tokens,
        "rounds": rounds,
        **{
            name: {
                "seconds to read": median(read for read, _ in all_),
                "seconds to the first word": median(first for _, first in all_),
            }
            for name, all_ in found.items()
        },
    }


def handed(model: Model, prompt: Prompt) -> CacheSegment:
    cached = model.read(prompt, needs=frozenset({CACHE})).cached
    assert cached is not None
    return cached


def word(model: Model, cached: CacheSegment) -> str:
    context = model.read(Prompt((cached, Text(("\nSo it is said that",))))).context
    return model.write(context, Settings(max_tokens=1)).words[0]


def clocked(done: Callable[[], T]) -> tuple[float, T]:
    begin = perf_counter()
    found = done()
    return perf_counter() - begin, found


if __name__ == "__main__":
    main()
