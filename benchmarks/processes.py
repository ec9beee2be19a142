"""Seconds for one message between two agents: in one process, and over every way between two.

    python benchmarks/processes.py
    python benchmarks/processes.py --megabytes 8 --repeats 3

The message is a float32 cache of 64 MB that the sender has at hand, so that nothing but its way is
measured: made into bytes, sent, passed on by the pipeline's process, and read by the receiver,
which touches every page. Between two processes that includes two turns, each with a request and a
reply of some hundred bytes; `turns` is what they cost with a message of one position. The limit is
one copy of the same bytes into memory that is there already (`memcpy`); `fresh` makes room first.
Median and best of the repeats; all ways take turns in one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from rich.progress import track

from unspoken import Edge, Handoff, Pipeline, Processes, RayActors, Role
from unspoken.agents import TurnResult
from unspoken.evaluation.result import about_machine
from unspoken.executors import Executor, Here
from unspoken.files import write_text
from unspoken.types import CacheSegment, Spec, Usage
from unspoken.wire import Header, Message

LAYERS, HEADS, WIDTH = 32, 8, 64
POSITION = LAYERS * 2 * HEADS * WIDTH * 4
"""Bytes of one position of the cache."""


class Echo:
    """Sends a cache of so many positions as the question says, and touches what it hears."""

    role = Role()
    backbone = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec = Spec("echo", 1, LAYERS, HEADS, WIDTH, weights="w", tokenizer="t")
        self.held: dict[int, Message] = {}

    def take_turn(
        self,
        fields: dict[str, tuple[str, ...]],
        heard: Sequence[tuple[Edge, Message]],
        over: Sequence[Edge],
        **_: Any,
    ) -> TurnResult[Message]:
        seen = 0.0
        for _, message in heard:
            assert isinstance(message.payload, CacheSegment)
            for keys, values in message.payload.kv:
                seen += float(keys.flatten()[::1024].sum() + values.flatten()[::1024].sum())
        size = int(fields["question"][0])
        if over and size not in self.held:
            self.held[size] = cache(size)
        return TurnResult((str(seen),), tuple(self.held[size] for _ in over), (Usage(),))


def cache(positions: int) -> Message:
    kv = tuple(
        (torch.ones(1, HEADS, positions, WIDTH), torch.ones(1, HEADS, positions, WIDTH))
        for _ in range(LAYERS)
    )
    header = Header(channel="handoff", sender="sender", weights="w", tokenizer="t")
    return Message(header, CacheSegment.of(kv, torch.ones(1, positions, dtype=torch.bool)))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--megabytes", type=int, default=64)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/processes.json"))
    given = options.parse_args()
    positions = (given.megabytes << 20) // POSITION
    with ExitStack() as opened:
        pipelines = {name: opened.enter_context(pair(where)) for name, where in places().items()}
        for pipeline in pipelines.values():  # the first one makes the cache, and warms the way
            pipeline.run(str(positions)), pipeline.run("1")
        copies = {"memcpy": warm_copy(given.megabytes << 20), "fresh": fresh(given.megabytes << 20)}
        took: dict[str, list[float]] = {}
        for _ in track(range(given.repeats), "messages"):
            for name, copy in copies.items():
                took.setdefault(name, []).append(seconds(copy))
            for (
                name,
                pipeline,
            ) in pipelines.items():  # before the others: to free a large message takes time
                took.setdefault(f"{name} turns", []).append(seconds(partial(pipeline.run, "1")))
            for name, pipeline in pipelines.items():
                took.setdefault(name, []).append(seconds(partial(pipeline.run, str(positions))))
    limit = median(took["memcpy"])
    result = {
        "benchmark": "processes",
        "bytes": cache(positions).nbytes,
        "repeats": given.repeats,
        "ways": {
            name: {
                "median_seconds": median(times),
                "best_seconds": min(times),
                "memcpys": median(times) / limit,
            }
            for name, times in took.items()
        },
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def places() -> dict[str, Executor]:
    found: dict[str, Executor] = {"here": Here()}
    found |= {name: Processes(name) for name in ("pipe", "shared_memory", "tcp")}
    return found | ({"ray": RayActors()} if find_spec("ray") else {})


def pair(where: Executor) -> Pipeline:
    makes: list[Any] = [partial(Echo, name) for name in ("sender", "receiver")]
    return Pipeline(makes, [Edge("sender", "receiver", Handoff())], executor=where)


def warm_copy(size: int) -> Callable[[], object]:
    source, target = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8)
    return lambda: target.copy_(source)


def fresh(size: int) -> Callable[[], object]:
    source = torch.ones(size, dtype=torch.uint8)
    return source.clone


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    main()
