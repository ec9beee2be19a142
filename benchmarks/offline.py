"""Many prompts on a few documents: grouped by common beginnings, beside their order of arrival.

    python benchmarks/offline.py
    python benchmarks/offline.py --requests 200 --documents 8 --tokens 512 --written 16 --out FILE

Each prompt is a document and a question of its own. Both arms run on one model, write through its
scheduler while they read, and may keep the caches of as many documents as `--room` says:

* arrival: prompts in random order; the documents are marked, and the cache that was used last is
  kept longest (LRU);
* grouped: `write_all`, which finds the common beginnings itself and keeps one of them at a time.

No word ends an answer, so both write equally many tokens. Arms take turns in each round.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from rich.console import Console
from serving import Endless, prompts

from unspoken import Settings
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.layout import Chunk
from unspoken.scheduling import Limits
from unspoken.types import KV, Prompt, Text, counted


class Remembering(Endless):
    """A model that keeps the caches of the openings that were used last."""

    room = 2

    def read_opening(self, run: Chunk) -> KV:
        known: OrderedDict[tuple[int, ...], KV] = self.__dict__.setdefault("known", OrderedDict())
        key = tuple(run.ids[0].tolist())
        kv = known.pop(key, None)
        if kv is None:
            while len(known) >= self.room:
                known.popitem(last=False)
            kv, _ = self.pass_over((), run.mask[:, :0], run, counted(run.mask))
        known[key] = kv
        return kv


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--requests", type=int, default=200)
    options.add_argument("--documents", type=int, default=8)
    options.add_argument("--tokens", type=int, default=512, help="of a document")
    options.add_argument("--written", type=int, default=16)
    options.add_argument("--room", type=int, default=2, help="documents whose cache may be kept")
    options.add_argument("--rows", type=int, default=16, help="rows of a batch")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    grouped = Endless.from_pretrained(given.model, dtype="float32")
    arrival = Remembering(grouped.model, grouped.tokenizer, name=given.model)
    arrival.room = given.room
    documents = prompts(grouped, given.documents, given.tokens)
    asked = [
        (documents[n % given.documents], f"\nQuestion {n}: what") for n in range(given.requests)
    ]
    random.Random(given.seed).shuffle(asked)
    own = Settings(given.written)
    marked = [Prompt((Text((d,), shared=True), Text((q,)))) for d, q in asked]
    plain = [Prompt((Text((d + q,)),)) for d, q in asked]
    for model in (grouped, arrival):
        model.scheduler.limits = Limits(max_rows=given.rows)

    def by_arrival() -> list[Any]:
        return list(arrival.write_each((arrival.read(prompt).context, own) for prompt in marked))

    def by_group() -> list[Any]:
        return grouped.write_all(plain, [own] * len(plain))

    arms: dict[str, Callable[[], Sequence[Any]]] = {"arrival": by_arrival, "grouped": by_group}
    wall: dict[str, list[float]] = {name: [] for name in arms}
    work: dict[str, list[float]] = {name: [] for name in arms}
    words: dict[str, list[str]] = {}
    for _ in range(given.rounds):
        for name, arm in arms.items():
            start, begun = perf_counter(), process_time()
            words[name] = [one.words[0] for one in arm()]
            wall[name].append(perf_counter() - start)
            work[name].append(process_time() - begun)
            Console(stderr=True).print(name, wall[name][-1], work[name][-1])
    ratios = [a / g for a, g in zip(wall["arrival"], wall["grouped"], strict=True)]
    cpu = [a / g for a, g in zip(work["arrival"], work["grouped"], strict=True)]
    result = {
        "benchmark": "offline",
        **{name: value for name, value in vars(given).items() if name != "out"},
        "seconds": wall,
        "cpu_seconds": work,
        "times_faster": median(ratios),
        "times_faster_by_cpu_seconds": median(cpu),
        "same_words": sum(a == g for a, g in zip(words["arrival"], words["grouped"], strict=True)),
        **about_machine(),
    }
    if given.out:
        write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print_json(json.dumps(result))


if __name__ == "__main__":
    main()
