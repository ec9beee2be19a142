"""What a short instruction that is read by itself costs a long prompt.

    python benchmarks/prefill.py
    python benchmarks/prefill.py --tokens 1000 8000 --model gemma-3-270m --rounds 3

Plain `generate` reads the prompt without the instruction and writes one token. `unspoken` reads the
instruction, keeps its cache, reads the prompt after it, and writes one token. Each arm is a process
of its own, so that its peak of memory is its own; the arms take turns. CPU seconds are those of
reading and writing, without loading.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unspoken import Backbone, Settings
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.types import Prompt, Text

INSTRUCTION = "Answer the question briefly."
ARMS = ("plain", "unspoken")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--tokens", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    options.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.arm:
        print(json.dumps(run(given.arm, given.model, given.tokens[0])))
        return
    rows = [measured(given, tokens) for tokens in given.tokens]
    show(rows)
    if given.out:
        content = {"machine": about_machine(), "model": given.model, "rows": rows}
        write_text(given.out, json.dumps(content, indent=1) + "\n")


def run(arm: str, name: str, tokens: int) -> dict[str, float]:
    """CPU seconds and peak MiB of one arm, in this process."""
    torch.set_num_threads(1)
    model = Backbone.from_pretrained(name, dtype="float32")
    words = model.tokenizer.decode(list(range(1000, 1000 + tokens)))
    ids = model.tokens(words)[:tokens]
    words = model.tokenizer.decode(ids)
    assert model.spec.weights  # proofs on the model come first
    start = process_time()
    if arm == "plain":
        model.model.set_attn_implementation("sdpa")
        inputs = torch.tensor([ids])
        model.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=1, do_sample=False
        )
    else:
        prompt = Prompt((Text((INSTRUCTION,), shared=True), Text((words,))))
        model.write(model.read(prompt).context, Settings(max_tokens=1))
    seconds = process_time() - start
    return {"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measured(given: Any, tokens: int) -> dict[str, Any]:
    """The medians of both arms, which take turns."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(given.rounds):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--model", given.model]
            told = subprocess.run(
                [*command, "--tokens", str(tokens)], check=True, capture_output=True, text=True
            )
            found[arm].append(json.loads(told.stdout.splitlines()[-1]))
    return {
        "tokens": tokens,
        **{
            arm: {what: median(one[what] for one in runs) for what in ("seconds", "mib")}
            for arm, runs in found.items()
        },
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("tokens", "plain CPU s", "unspoken", "times", "plain MiB", "unspoken", "times")
    for row in rows:
        cells = [str(row["tokens"])]
        for what, digits in (("seconds", 2), ("mib", 0)):
            plain, ours = row["plain"][what], row["unspoken"][what]
            cells += [f"{plain:.{digits}f}", f"{ours:.{digits}f}", f"{ours / plain:.2f}"]
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
