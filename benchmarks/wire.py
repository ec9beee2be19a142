"""A cache of 64 MB to bytes and back, against copying as many bytes.

    python benchmarks/wire.py --repeats 31

Everything runs in one process, one after the other and round after round, so that a busy machine
slows down all alike; a ratio is the median over rounds of copy time by time. `copy` makes a new
bytes object of 64 MB, as `to_bytes` has to; `copy in place` fills memory that was there before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from unspoken.evaluation.result import about_machine
from unspoken.types import CacheSegment
from unspoken.wire import Header, Int8, Message, Seal


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=31)
    options.add_argument("--positions", type=int, default=1024, help="64 KiB each")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/wire.json"))
    given = options.parse_args()
    message = cache(given.positions)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(jobs(message, Path(folder) / "m"), given.repeats)
    size = message.nbytes
    result: dict[str, Any] = {
        "benchmark": "wire",
        "bytes_reported": size,
        "bytes_sent": len(message.to_bytes()),
        "repeats": given.repeats,
        "jobs": {
            name: {
                "median_seconds": median(own),
                "gigabytes_per_second": size / median(own) / 1e9,
                "of_copy": median(c / t for c, t in zip(times["copy"], own, strict=True)),
                "of_copy_in_place": median(
                    c / t for c, t in zip(times["copy in place"], own, strict=True)
                ),
            }
            for name, own in times.items()
        },
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def cache(positions: int) -> Message:
    """32 layers of 4 heads of width 64, float32."""
    shape = (1, 4, positions, 64)
    kv = tuple((torch.randn(shape), torch.randn(shape)) for _ in range(32))
    header = Header(channel="handoff", sender="reader", weights="w", tokenizer="t")
    return Message(header, CacheSegment.of(kv, torch.ones(1, positions, dtype=torch.bool)))


def jobs(message: Message, path: Path) -> dict[str, Callable[[], object]]:
    data, seal = message.to_bytes(), Seal(sign=bytes(32))
    signed = message.to_bytes(seal)
    message.save(path)
    whole = np.frombuffer(data, np.uint8)
    room = np.empty_like(whole)
    assert isinstance(message.payload, CacheSegment)
    named = {
        f"{side}.{n}": tensor
        for n, pair in enumerate(message.payload.kv)
        for side, tensor in zip(("keys", "values"), pair, strict=True)
    }
    return {
        "copy": lambda: bytes(whole.data),
        "copy in place": lambda: np.copyto(room, whole),
        "write": message.to_bytes,
        "write in place": lambda: message.write_into(room.data),
        "write, safetensors' own": lambda: save(named),
        "write, signed": lambda: message.to_bytes(seal),
        "write, int8": lambda: message.pack(Int8()).to_bytes(),
        "read": lambda: Message.from_bytes(data),
        "read and copy": lambda: copied(Message.from_bytes(data)),
        "read, safetensors' own": lambda: load(data),
        "read, signed": lambda: Message.from_bytes(signed, seal),
        "read a file": lambda: Message.load(path),
        "read a file and copy": lambda: copied(Message.load(path)),
    }


def copied(message: Message) -> list[torch.Tensor]:
    """The tensors in memory of their own, as a reader that keeps them needs."""
    assert isinstance(message.payload, CacheSegment)
    return [tensor.clone() for pair in message.payload.kv for tensor in pair]


def measure(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = perf_counter()
            made = job()
            times[name].append(perf_counter() - start)
            del made  # outside the clock, as for the copy
    return times


if __name__ == "__main__":
    main()
