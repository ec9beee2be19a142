"""What each packing of a message loses in accuracy, and what it saves in bytes.

    python benchmarks/compression.py --items 200
    python benchmarks/compression.py --recipe memory --projector out/memory/trained/projector-KEY

Without a projector, SmolLM2-135M hands its cache of a fact over to itself (channel `handoff`). With
one, the recipe's sender speaks to its receiver over the projector's channel. QASC test questions in
the private protocol: the answering agent sees the fact through the message only. All packings
answer the same items; `lost` is paired with the lossless one, with an exact McNemar test.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unspoken.channels import Handoff
from unspoken.evaluation.items import query, sample
from unspoken.evaluation.result import about_machine
from unspoken.evaluation.statistics import difference, wilson
from unspoken.files import write_text
from unspoken.pipeline import Pipeline
from unspoken.projectors import load_projector
from unspoken.recipe import load_recipe
from unspoken.relay.relay import Relay
from unspoken.relay.trained import trained_pipeline
from unspoken.tasks import Item, matches
from unspoken.wire import (
    LOSSLESS,
    BFloat16,
    Int4,
    Int8,
    Layers,
    LowRank,
    Packing,
    Tokens,
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--items", type=int, default=200)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--recipe", default="memory", help="a recipe of kind relay")
    options.add_argument("--projector", type=Path, help="a trained projector of that recipe")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/compression.json"))
    given = options.parse_args()
    line, relay = pipeline(given.recipe, given.projector, given.seed)
    items = sample(relay.task.test, given.items, given.seed)
    cached = given.projector is None
    rows: list[dict[str, Any]] = []
    for name, packing in packings(relay.receiver.spec.layers, cached).items():
        rows.append(measure(line, name, packing, items, given.batch))
    none = line.without_messages().run_many([query(item) for item in items], batch_size=given.batch)
    alone = [matches(run.answer, item.answers) for run, item in zip(none, items, strict=True)]
    result = {
        "benchmark": "compression",
        "channel": line.edges[0].channel.name,
        "task": {"name": relay.task.name, "protocol": relay.task.protocol, "items": len(items)},
        "seed": given.seed,
        "none_right": sum(alone),
        "packings": [compared(row, rows[0]) for row in rows],
        "models": [
            {"name": model.name, "fingerprint": model.fingerprint}
            for model in dict.fromkeys((relay.sender, relay.receiver))
        ],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print(table(result))


def pipeline(recipe: str, projector: Path | None, seed: int) -> tuple[Pipeline, Relay]:
    """The matched arm of a comparison, and what it was made from."""
    settings = [f"seed={seed}"]
    if projector is None:
        settings += [f"pair.{side}.model=smollm2-135m-instruct" for side in ("sender", "receiver")]
    relay = Relay.of(load_recipe(recipe, settings))
    if projector is None:
        return relay.pipeline_over(Handoff()), relay
    return trained_pipeline(relay, load_projector(projector)), relay


def packings(layers: int, cached: bool) -> dict[str, Packing]:
    """Those that are measured; layers can be left out of a cache only."""
    most, half = layers - layers // 3, layers // 2
    found: dict[str, Packing] = {
        "lossless": LOSSLESS,
        "bf16": BFloat16(),
        "int8": Int8(),
        "int4": Int4(),
        "int4, groups of 16": Int4(group=16),
        **{f"rank {n}": LowRank(rank=n) for n in ((64, 32) if cached else (16, 8))},
        "tokens, 3/4": Tokens(share=0.75),
        "tokens, 1/2": Tokens(share=0.5),
    }
    if cached:
        found["layers, lower 2/3"] = Layers(layers=tuple(range(most)))
        found["layers, middle 2/3"] = Layers(layers=tuple(range(layers // 6, layers // 6 + most)))
        found["layers, lower 1/2"] = Layers(layers=tuple(range(half)))
    return found


def measure(
    line: Pipeline, name: str, packing: Packing, items: list[Item], batch: int
) -> dict[str, Any]:
    edges = [replace(edge, pack=packing) for edge in line.edges]
    packed = Pipeline(list(line.agents.values()), edges, rounds=line.rounds)
    runs = packed.run_many([query(item) for item in items], batch_size=batch, progress=name)
    right = [matches(run.answer, item.answers) for run, item in zip(runs, items, strict=True)]
    return {
        "name": name,
        "packing": packing.model_dump(),
        "right": right,
        "answers": [run.answer for run in runs],
        "bytes": sum(run.usage.wire for run in runs) / len(runs),
    }


def compared(row: dict[str, Any], lossless: dict[str, Any]) -> dict[str, Any]:
    """A row with its interval, and what it lost against the lossless one, item by item."""
    right, n = row["right"], len(row["right"])
    interval = wilson(sum(right), n)
    lost = difference(lossless["right"], right)
    same = sum(a == b for a, b in zip(row["answers"], lossless["answers"], strict=True))
    return {
        "name": row["name"],
        "packing": row["packing"],
        "accuracy": sum(right) / n,
        "ci": [interval.low, interval.high],
        "lost": {"value": lost.value, "ci": [lost.low, lost.high], "p": lost.p},
        "same_answers": same,
        "bytes": row["bytes"],
        "of_lossless": row["bytes"] / lossless["bytes"],
    }


def table(result: dict[str, Any]) -> Table:
    task = result["task"]
    made = Table(title=f"{result['channel']} on {task['name']}, n = {task['items']}")
    for name in ("packing", "% right (95 %)", "lost, points (95 %)", "same", "bytes", "of all"):
        made.add_column(name)
    for row in result["packings"]:
        low, high = row["ci"]
        lost, (least, most) = row["lost"], row["lost"]["ci"]
        made.add_row(
            row["name"],
            f"{100 * row['accuracy']:.1f} ({100 * low:.0f}-{100 * high:.0f})",
            f"{100 * lost['value']:+.1f} [{100 * least:+.1f}, {100 * most:+.1f}]",
            f"{row['same_answers']}",
            f"{row['bytes']:,.0f}",
            f"{100 * row['of_lossless']:.0f} %",
        )
    made.caption = f"without a message {result['none_right']} of {task['items']} are right"
    return made


if __name__ == "__main__":
    main()
