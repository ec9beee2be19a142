"""What the sampler costs beside the forward passes that it makes: one process, in turn, medians.

    python benchmarks/diffusion.py
    python benchmarks/diffusion.py --steps 8 --rounds 3 --batches 1 4

SmolLM2-135M, opened in both directions and otherwise as it is: what it writes is noise, and what it
costs is real. A canvas of 64 positions behind a fact, 32 steps in blocks of 32, in batches,
against as many plain forward passes over prompt and canvas with the logits of the whole canvas.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from unspoken import TaskSource, load_task
from unspoken.backbone import DiffusionBackbone, Masked
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.types import TEXT, Denoising, Need, Prompt, Text

WAYS: dict[str, dict[str, Any]] = {
    "confidence": {},
    "margin": {"remask": "margin"},
    "entropy": {"remask": "entropy"},
    "random": {"remask": "random"},
    "temperature 1": {"temperature": 1.0},
    "confidence, with states": {},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--steps", type=int, default=32)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--mask", default="<empty_output>")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/diffusion.json"))
    given = options.parse_args()
    model = opened(given.model, given.mask)
    facts = [item.context for item in load_task(TaskSource()).test[: max(given.batches)]]
    plan = Denoising(max_tokens=given.tokens, steps=given.steps)
    result = {
        "benchmark": "diffusion",
        "tokens": given.tokens,
        "steps": given.steps,
        "rounds": given.rounds,
        "batches": {
            str(size): {
                way: measure(model, facts[:size], plan, changed, given.rounds, way=way)
                for way, changed in WAYS.items()
            }
            for size in given.batches
        },
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def opened(name: str, mask: str) -> DiffusionBackbone:
    """A causal model as a diffusion model without ends, so that every canvas runs to its end."""
    model = DiffusionBackbone.from_pretrained(name, Masked(mask=0, shift=True))
    token = model.tokenizer.convert_tokens_to_ids(mask)
    return DiffusionBackbone(
        model.model, model.tokenizer, Masked(token, shift=True, ends=(-1,)), name=name
    )


@torch.no_grad()
def measure(
    model: DiffusionBackbone,
    facts: list[str],
    plan: Denoising,
    changed: dict[str, Any],
    rounds: int,
    *,
    way: str,
) -> dict[str, Any]:
    """Seconds of a canvas and of its passes alone; the ratio is of medians."""
    settings = Denoising(max_tokens=plan.max_tokens, steps=plan.steps, **changed)
    needs = frozenset({TEXT, Need("hidden", -1)} if way.endswith("states") else {TEXT})
    prompt = Prompt((Text(tuple(f"Fact: {fact}\nNote:" for fact in facts)),))
    context = model.read(prompt, needs=needs).context
    real = torch.cat((context.mask, context.mask.new_ones(len(facts), plan.max_tokens)), 1)
    ids = torch.full(real.shape, model.masked.mask)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.zeros(len(facts), 1, *(2 * ids.shape[1:])),
        "position_ids": (real.long().cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
        "logits_to_keep": plan.max_tokens,
    }
    passes = model.write(context, settings).passes  # warm
    model.model(**inputs)
    seconds: dict[str, list[float]] = {"canvas": [], "passes": []}
    for _ in range(rounds):
        start = perf_counter()
        written = model.write(context, settings)
        middle = perf_counter()
        for _ in range(passes):
            model.model(**inputs)
        end = perf_counter()
        assert written.passes == passes
        seconds["canvas"].append(middle - start)
        seconds["passes"].append(end - middle)
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "passes": passes,
        "seconds": medians,
        "ratio": medians["canvas"] / medians["passes"],
        "ratios": [a / b for a, b in zip(*seconds.values(), strict=True)],
    }


if __name__ == "__main__":
    main()
