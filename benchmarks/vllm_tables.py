"""The tables of trained relays in transformers and in vLLM, and how many answers differ.

    .venv-vllm/bin/python benchmarks/vllm_tables.py
    .venv-vllm/bin/python benchmarks/vllm_tables.py --items 20 --tables relay handoff

Each recipe is measured twice in this process, with one thread: in transformers, where what is
missing is trained, and then with its receiver in vLLM. All controls of its comparison are asked.
`relay` is text and projected vectors, `memory` a projected cache, `handoff` a cache between equal
weights, `fusion` a fused cache on another task. Weights are below --trained, and answers below
--out, where a run that was stopped goes on. Seconds are those of the arms alone.
"""

from __future__ import annotations

import argparse
import json
from os import getloadavg
from pathlib import Path
from typing import Any

import torch

from unspoken.evaluation.result import about_machine
from unspoken.evaluation.store import read_rows
from unspoken.files import write_text
from unspoken.recipe import load_recipe, measurements
from unspoken.terminal import PlainConsole

ENGINES = ("transformers", "vllm")
_RECIPES = {
    "relay": ("relay", "comparison.channels=[full-text, text, embedding]"),
    "memory": ("memory", "comparison.channels=[memory]", "comparison.reader=null"),
    "handoff": (
        "relay",
        "comparison.channels=[handoff, oracle]",
        "comparison.reader=null",
        "pair.sender.model=smollm2-135m-instruct",
    ),
    "fusion": ("fusion", "comparison.channels=[fusion]", "comparison.reader=null"),
}
Answers = dict[str, dict[str, str]]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--tables", nargs="+", choices=_RECIPES, default=["relay", "handoff"])
    options.add_argument("--items", type=int, default=200)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of all recipes")
    options.add_argument("--trained", type=Path, default=Path("out/vllm-tables/trained"))
    options.add_argument("--out", type=Path, default=Path("out/vllm-tables"))
    options.add_argument("--json", type=Path, default=None, help="where the result is kept")
    given = options.parse_args()
    torch.set_num_threads(1)
    result = {
        "benchmark": "vllm tables",
        "items": given.items,
        "load before": getloadavg()[0],
        "tables": {name: side_by_side(name, given) for name in given.tables},
        "load after": getloadavg()[0],
        **about_machine(),
    }
    if given.json is not None:
        write_text(given.json, json.dumps(result, indent=1) + "\n")


def side_by_side(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Both tables of a recipe, printed, and the answers that differ."""
    answers, seconds = dict[str, Answers](), dict[str, float]()
    for engine in ENGINES:
        answers[engine], seconds[engine] = measured(name, engine, given)
    found = differences(*answers.values())
    asked = sum(map(len, answers["vllm"].values()))
    console = PlainConsole()
    console.print(f"{name}: {len(found)} of {asked} answers differ; seconds {seconds}")
    for one in found:
        console.print(f"  {one}")
    return {"answers": asked, "seconds": seconds, "differ": found}


def measured(name: str, engine: str, given: argparse.Namespace) -> tuple[Answers, float]:
    """The answers of each arm by item, and the seconds that all of them took."""
    recipe, *settings = _RECIPES[name]
    out = given.out / name / engine
    every = [
        "studies={comparison: {bits: null}}",
        "comparison.lora=null",
        f"comparison.limit={given.items}",
        *(f"pair.{side}.dtype={given.dtype}" for side in ("sender", "receiver")),
        f"engine={engine}",
        f"trained={given.trained}",
        f"out={out}",
    ]
    (measurement,) = measurements(load_recipe(recipe, [*every, *settings, *given.set]))
    report: Any = measurement.run()
    console = PlainConsole()
    console.print(f"{name} in {engine}")
    console.print(report.table())
    paths = sorted((out / "predictions").iterdir())
    rows = {path.stem: read_rows(path) for path in paths}
    took = sum(row["usage"]["seconds"] for arm in rows.values() for row in arm)
    return {arm: {row["id"]: row["prediction"] for row in one} for arm, one in rows.items()}, took


def differences(one: Answers, other: Answers) -> list[dict[str, str]]:
    """The arms, items and answers in which two engines differ."""
    assert {arm: [*items] for arm, items in one.items()} == {
        arm: [*items] for arm, items in other.items()
    }
    return [
        {"arm": arm, "item": item, ENGINES[0]: answer, ENGINES[1]: other[arm][item]}
        for arm, answers in one.items()
        for item, answer in answers.items()
        if answer != other[arm][item]
    ]


if __name__ == "__main__":
    main()
