"""What a latent step costs, in steps of decoding: one process, side by side, medians.

    python benchmarks/rollout.py --steps 32 --rounds 9

SmolLM2-135M goes on from the same context (a QASC fact behind worked examples) for as many latent
steps as tokens: `Backbone.roll_out` against `Backbone.write`. One pass more is in both, that of the
last token read. Batches of 1 and of 16, rows of unequal length. Greedy words end at no string, so
that both run to the end. Also: how far a batch of 16 is from its rows alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from unspoken import Backbone, Settings, TaskSource, load_task
from unspoken.evaluation.result import about_machine
from unspoken.types import Context, Need, Prompt, Rollout, Text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=32)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/rollout.json"))
    given = options.parse_args()
    model = Backbone.from_pretrained(given.model)
    facts = [item.context for item in load_task(TaskSource()).test[:16]]
    result = {
        "benchmark": "rollout",
        "steps": given.steps,
        "rounds": given.rounds,
        "batches": {
            str(size): measure(model, read(model, facts[:size]), given.steps, given.rounds)
            for size in (1, 16)
        },
        "batch_16_against_1": apart(model, facts, given.steps),
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def read(model: Backbone, facts: list[str]) -> Context:
    return model.read(Prompt((Text(tuple(f"Fact: {fact}\nNote:" for fact in facts)),))).context


def measure(model: Backbone, context: Context, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds a step, the two in turn; the ratio is of medians."""
    model.model.generation_config.eos_token_id = None  # decoding runs to the end, as a rollout does
    need, settings = Need("rollout", limit=steps, feed="ridge"), Settings(max_tokens=steps + 1)
    model.roll_out(context, need)  # warm, and the alignment is solved once
    model.write(context, settings)
    seconds: dict[str, list[float]] = {"latent_step": [], "decode_step": []}
    for _ in range(rounds):
        start = perf_counter()
        passes = model.roll_out(context, need).passes
        middle = perf_counter()
        words = model.write(context, settings)
        end = perf_counter()
        assert passes == words.passes == steps + 1
        seconds["latent_step"].append((middle - start) / passes)
        seconds["decode_step"].append((end - middle) / passes)
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "seconds": medians,
        "ratio": medians["latent_step"] / medians["decode_step"],
        "ratios": [a / b for a, b in zip(*seconds.values(), strict=True)],
    }


def apart(model: Backbone, facts: list[str], steps: int) -> dict[str, float]:
    """The largest relative distance between a batch of 16 and its rows one by one."""
    need = Need("rollout", limit=steps, feed="ridge")
    together = model.roll_out(read(model, facts), need)
    alone = [model.roll_out(read(model, [fact]), need) for fact in facts]
    vectors = [
        distance(together.vectors.values[n], one.vectors.values[0]) for n, one in enumerate(alone)
    ]
    caches = [cache_distance(together, one, n) for n, one in enumerate(alone)]
    return {"vectors": max(vectors), "cache": max(caches)}


def cache_distance(together: Rollout, alone: Rollout, row: int) -> float:
    assert together.cached is not None
    assert alone.cached is not None
    ours, theirs = together.cached.rows(slice(row, row + 1)).kv, alone.cached.kv
    pairs = [
        pair for layers in zip(ours, theirs, strict=True) for pair in zip(*layers, strict=True)
    ]
    return max(distance(left, right) for left, right in pairs)


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())


if __name__ == "__main__":
    main()
