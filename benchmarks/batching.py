"""Questions per second: one at a time against batches, the same answers.

    python benchmarks/batching.py --items 64 --batch 16

Two SmolLM2-135M agents on QASC facts, over text (the first one writes a note) and over the
hand-over (it writes nothing, so little is decoded and there is less to gain). Both ways run in one
process on the same items. The limit of decoding one row: bytes of weights over memory bandwidth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from rich.progress import track

from unspoken import (
    Agent,
    Backbone,
    Edge,
    Handoff,
    Pipeline,
    Role,
    Settings,
    TaskSource,
    TextChannel,
    load_task,
)
from unspoken.evaluation.items import query
from unspoken.evaluation.result import about_machine
from unspoken.pipeline import Query


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--items", type=int, default=64)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/batching.json"))
    given = options.parse_args()
    model = Backbone.from_pretrained(given.model)
    queries = [query(item) for item in load_task(TaskSource()).test[: given.items]]
    result = {
        "benchmark": "batching",
        "items": given.items,
        "batch": given.batch,
        "channels": {
            name: measure(pair, queries, given.batch)
            for name, pair in {"text": text(model), "handoff": handoff(model)}.items()
        },
        "seconds_to_stream_the_weights_once": weight_bytes(model) / bandwidth(model.device),
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(pair: Pipeline, queries: Sequence[Query], batch: int) -> dict[str, float]:
    pair.run_many(queries[:batch], batch_size=batch)  # warm
    start = perf_counter()
    single = [pair.run(one).answer for one in track(queries, "one at a time")]
    middle = perf_counter()
    batched = [run.answer for run in pair.run_many(queries, batch_size=batch, progress="batched")]
    alone, together = middle - start, perf_counter() - middle
    same = sum(a == b for a, b in zip(single, batched, strict=True))
    return {
        "items_per_second_single": len(queries) / alone,
        "items_per_second_batched": len(queries) / together,
        "ratio": alone / together,
        "same_answers": same,
    }


SHOT = "Fact: Cooling things is a way to keep perishable foods.\n"
ASK = "{messages}\nQuestion: {question}\nAnswer:"
LEAD = (
    f"Answer each question with a few words taken from the fact.\n\n{SHOT}"
    "Question: What helps to keep perishable foods?\nAnswer: cooling things\n\n"
)
SHORT = Settings(max_tokens=12, stop=("\n",))


def handoff(model: Backbone) -> Pipeline:
    """A reader that hands over its cache, and an answerer."""
    reader = Agent("reader", model, role=Role(LEAD, "Fact: {context}", chat=False))
    solver = Agent("solver", model, role=Role(LEAD, ASK, chat=False), settings=SHORT)
    return Pipeline([reader, solver], [Edge("reader", "solver", Handoff())])


def text(model: Backbone) -> Pipeline:
    """A writer that puts the fact in its own words, and an answerer."""
    instructions = f"Each fact is followed by the same fact in other words.\n\n{SHOT}"
    instructions += "In other words: foods that perish keep longer when they are cooled\n\n"
    role = Role(instructions, "Fact: {context}\nIn other words:", chat=False)
    writer = Agent("writer", model, role=role, settings=Settings(max_tokens=32, stop=("\n",)))
    ask = Role(LEAD, f"Fact:{ASK}", "{message}", chat=False)
    solver = Agent("solver", model, role=ask, settings=SHORT)
    return Pipeline([writer, solver], [Edge("writer", "solver", TextChannel())])


def weight_bytes(model: Backbone) -> int:
    return sum(p.numel() * p.element_size() for p in model.model.parameters())


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MB reads and writes, the best of five."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, perf_counter() - start)
    return 2 * source.numel() * source.element_size() / best


if __name__ == "__main__":
    main()
