"""Questions per second: one at a time against batches, the same answers.

    python benchmarks/batching.py --items 64 --batch 16

Two SmolLM2-135M agents over the hand-over channel, QASC facts. Both ways run in one process on the
same items; the limit is the time of the forward passes alone, measured as bytes of weights over
memory bandwidth for decoding one row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import torch

from unspoken import Agent, Backbone, Edge, Handoff, Pipeline, Role, Settings, TaskSource, load_task
from unspoken.evaluation.compare import query
from unspoken.evaluation.report import about_machine


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--items", type=int, default=64)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/batching.json"))
    given = options.parse_args()
    model = Backbone.from_pretrained(given.model)
    pair = relay(model)
    queries = [query(item) for item in load_task(TaskSource()).test[: given.items]]
    pair.run_many(queries[: given.batch], batch_size=given.batch)  # warm
    start = perf_counter()
    single = [pair.run(q).answer for q in queries]
    alone = perf_counter() - start
    start = perf_counter()
    batched = [
        run.answer for run in pair.run_many(queries, batch_size=given.batch, progress="batched")
    ]
    together = perf_counter() - start
    limit = weight_bytes(model) / bandwidth(model.device)
    result = {
        "benchmark": "batching",
        "items": given.items,
        "batch": given.batch,
        "items_per_second_single": given.items / alone,
        "items_per_second_batched": given.items / together,
        "ratio": alone / together,
        "same_answers": sum(a == b for a, b in zip(single, batched, strict=True)),
        "seconds_to_stream_the_weights_once": limit,
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def relay(model: Backbone) -> Pipeline:
    """A reader that hands over its cache, and an answerer."""
    lead = (
        "Answer each question with a few words taken from the fact.\n\n"
        "Fact: Cooling things is a way to keep perishable foods.\n"
        "Question: What helps to keep perishable foods?\nAnswer: cooling things\n\n"
    )
    reader = Agent("reader", model, role=Role(lead, "Fact: {context}", chat=False))
    ask = Role(lead, "{messages}\nQuestion: {question}\nAnswer:", chat=False)
    solver = Agent("solver", model, role=ask, settings=Settings(max_tokens=12, stop=("\n",)))
    return Pipeline([reader, solver], [Edge("reader", "solver", Handoff())])


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
