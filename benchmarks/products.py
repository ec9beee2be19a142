"""How many times faster many users can be than one at a time, by the matrix products alone.

    python -m benchmarks.products
    python -m benchmarks.products --users 16 --shapes 64+64 256+64 --out FILE

A server cannot be faster than the products of the model's weights that its passes need. They are
taken here without anything around them: those of a prompt, of a step of one row, and of a step of
all rows. From these follow the tokens per second of one request after the other and of all at
once, which read one by one and write together. Beside them stands what a step of the scheduler
takes with all rows, and with one. Seconds are those of the processor, the least of some rounds, as
other work on the machine only adds to them.

`--packed` does the same with the weights in the order of oneDNN, which takes their memory twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.serving import Endless, ask, prompts
from unspoken import Settings
from unspoken.backbone.running import RunningBatch
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.types import Prompt, Text

Product = Callable[[Tensor], Tensor]


def least(rounds: int, work: Callable[[], Any]) -> float:
    """Milliseconds of the processor."""
    found = list[float]()
    for _ in range(rounds):
        begun = process_time()
        work()
        found.append(1000 * (process_time() - begun))
    return min(found)


def plain(weight: Tensor, _: int) -> Product:
    return lambda given: linear(given, weight)


def packed(weight: Tensor, rows: int) -> Product:
    ops: Any = torch.ops.mkldnn
    turned = ops._reorder_linear_weight(weight, rows)
    return lambda given: ops._linear_pointwise(given, turned, None, "none", [], "")


@torch.no_grad()
def products(model: Any, kind: Callable[[Tensor, int], Product], rows: int, given: Any) -> float:
    """Milliseconds of all products of a pass over some tokens, or rows, of a batch."""
    layers = [one for one in model.body.modules() if isinstance(one, torch.nn.Linear)]
    head = model.model.get_output_embeddings()
    last = rows if rows == given.users else 1  # a prompt needs the vocabulary once
    every = [(kind(one.weight, rows), one.in_features, rows) for one in layers]
    every.append((kind(head.weight, last), head.in_features, last))
    inputs = {size: torch.randn(size[1], size[0]) for size in {(w, n) for _, w, n in every}}

    def work() -> None:
        for product, width, count in every:
            product(inputs[width, count])

    return least(given.rounds, work)


def step(model: Any, text: str, rows: int, rounds: int) -> float:
    """Milliseconds of a step of the scheduler's batch."""
    context = model.read(Prompt((Text((text,)),))).context
    batch = RunningBatch(model)
    settings = Settings(2 * rounds + 2)
    batch.join(
        [task for _ in range(rows) for task in model.tasks(context, model.rows(context, settings))]
    )
    return least(rounds, batch.step)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--users", type=int, default=16)
    options.add_argument("--shapes", nargs="+", default=["64+32", "64+64", "256+64"])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--packed", action="store_true")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    model = Endless.from_pretrained(given.model, dtype="float32")
    (text,) = prompts(model, 1, 64)
    ask(model, text, 2)  # what has to be found out about the model is known from now on
    users, found = given.users, dict[str, Any]()
    for name, kind in {"plain": plain, **({"packed": packed} if given.packed else {})}.items():
        one, many = (products(model, kind, rows, given) for rows in (1, users))
        times = dict[str, float]()
        for shape in given.shapes:
            read, written = map(int, shape.split("+"))
            prompt = products(model, kind, read, given)
            together = users / (users * prompt + written * many)
            times[shape] = together * (prompt + written * one)
        found[name] = {"one_row": one, "all_rows": many, "times_alone": times}
    found["step"] = {
        "one_row": step(model, text, 1, given.rounds),
        "all_rows": step(model, text, users, given.rounds),
    }
    Console().print(found)
    if given.out:
        settings = {name: value for name, value in vars(given).items() if name != "out"}
        content = {"benchmark": "products", **settings, "milliseconds": found, **about_machine()}
        write_text(given.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
