"""What cache fusion costs beside its parts: reading twice, and the fuser's matrix products.

    python benchmarks/fusion.py --repeat 5
    python benchmarks/fusion.py --lengths 64 --batches 1 --repeat 1 --written 4

SmolLM2-135M reads random tokens, Gemma-3-270M as many of its own, and all but the last position is
fused by an untrained fuser. All ways take turns in one process on the same tokens; numbers are
medians. The limit: 2 floating point operations for each weight and token over the rate of one large
float32 product; attention, embeddings and norms are not counted in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from unspoken import Backbone, Settings
from unspoken.channels.sections import Sharer, prefill
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.projectors.fuser import Fuser, layer_map
from unspoken.types import Context, Spec

TARGET = 1.15  # fused over receiver + sharer + products
GIB = 1 << 30


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 2048])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--written", type=int, default=16, help="tokens that are decoded")
    options.add_argument("--hidden", type=int, default=256, help="hidden and inner width")
    options.add_argument("--memory", type=float, default=8.0, help="GiB that caches may take")
    options.add_argument("--receiver", default="smollm2-135m-instruct")
    options.add_argument("--sharer", default="gemma-3-270m")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/fusion.json"))
    given = options.parse_args()
    pair = Pair.load(given.receiver, given.sharer, given.hidden)
    sizes = sorted(
        ((length, batch) for length in given.lengths for batch in given.batches),
        key=lambda size: size[0] * size[1],  # the peak of a process only grows
    )
    cases: list[dict[str, Any]] = []
    for length, batch in track(sizes, "fusing", console=Console(stderr=True)):
        size, needed = {"length": length, "batch": batch}, pair.cache_bytes(length, batch) / GIB
        if needed > given.cached:
            why = f"caches of {needed:.1f} GiB exceed --memory {given.cached}"
            cases.append({**size, "skipped": why})
        else:
            found = measure(pair, length, batch, given.repeat, given.written)
            cases.append({**size, "cache_gib": needed, **found})
    result = {
        "benchmark": "fusion",
        "hidden": given.hidden,
        "repeat": given.repeat,
        "written": given.written,
        "target_ratio": TARGET,
        "matrix_products": count_products(pair),
        "cases": cases,
        "models": [
            {"name": model.name, "fingerprint": model.fingerprint}
            for model in (pair.receiver, pair.sharer)
        ],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print(table(cases))
    Console().print(f"matrix products by calls: {result['matrix_products']}")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models and a fuser between them."""

    receiver: Backbone
    sharer: Backbone
    fuser: Fuser

    @classmethod
    def load(cls, receiver: str, sharer: str, hidden: int) -> Pair:
        """Load both models; the fuser has random weights and covers every receiver layer."""
        ours, theirs = Backbone.from_pretrained(receiver), Backbone.from_pretrained(sharer)
        ours.model.generation_config.eos_token_id = None  # every row decodes to the limit
        torch.manual_seed(0)
        fuser = Fuser(
            source_heads=theirs.spec.kv_heads,
            source_dim=theirs.spec.head_dim,
            target_heads=ours.spec.kv_heads,
            target_dim=ours.spec.head_dim,
            layers=layer_map(ours.spec.layers, theirs.spec.layers, "k_nearest"),
            hidden=hidden,
            inner=hidden,
        )
        return cls(ours, theirs, fuser.to(ours.device).eval())

    def cache_bytes(self, length: int, batch: int) -> int:
        """Of the caches held at once: the receiver's plain, fused and decoded, the sharer's."""

        def position(model: Backbone) -> int:
            spec: Spec = model.spec
            return 2 * spec.layers * spec.kv_heads * spec.head_dim * model.dtype.itemsize

        return length * batch * (3 * position(self.receiver) + position(self.sharer))

    @torch.no_grad()
    def set_gates(self, shut_every: int | None) -> None:
        """Shut the gates of every so many layers, from the first, and open the others."""
        self.fuser.gate.fill_(1)
        if shut_every is not None:
            self.fuser.gate[::shut_every] = -1

    def linears(self) -> list[nn.Linear]:
        return [module for module in self.fuser.modules() if isinstance(module, nn.Linear)]


@dataclass(frozen=True, slots=True)
class Work:
    """One case: token ids (B, N) for both models, and every way to spend time on them."""

    pair: Pair
    ids: Tensor
    theirs: Tensor
    inputs: Mapping[int, Tensor]

    @classmethod
    def of(cls, pair: Pair, length: int, batch: int) -> Work:
        draw = torch.Generator().manual_seed(0)
        widths = {module.in_features for module in pair.linears()}
        device = pair.receiver.device
        return cls(
            pair,
            random_ids(pair.receiver, (batch, length), draw),
            random_ids(pair.sharer, (batch, length), draw),
            {w: torch.randn(batch, length - 1, w, generator=draw).to(device) for w in widths},
        )

    def receiver(self) -> Context:
        return prefill(self.pair.receiver, [], self.ids, self._all, torch.zeros_like(self.ids))

    def sharer(self) -> None:
        top, mask = self.pair.fuser.top, self._all[:, :-1]
        self.pair.sharer.extend((), self.theirs[:, :-1], mask, layers=top + 1)

    def products(self) -> None:
        """The fuser's matrix products on random inputs of the same shapes, and nothing else."""
        for module in self.pair.linears():
            linear(self.inputs[module.in_features], module.weight, module.bias)

    def fused(self, shut_every: int | None = None) -> Context:
        """Two sections: all but the last position, fused, and the last one."""
        use = torch.ones_like(self.ids)
        use[:, -1] = 0
        sharer = Sharer(self.pair.sharer, self.pair.fuser, self.theirs)
        self.pair.set_gates(shut_every)
        return prefill(self.pair.receiver, [sharer], self.ids, self._all, use)

    def shut(self) -> Context:
        return self.fused(1)

    @property
    def _all(self) -> Tensor:
        return torch.ones_like(self.ids, dtype=torch.bool)


@torch.no_grad()
def measure(pair: Pair, length: int, batch: int, repeat: int, written: int) -> dict[str, Any]:
    """Seconds of each way to read and to decode, and what follows from them."""
    device = pair.receiver.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work, tokens = Work.of(pair, length, batch), length * batch
    square = torch.randn(2 * [8192 if device.type == "cuda" else 2048], device=device)
    seconds = take_turns(
        {
            "receiver": work.receiver,
            "sharer": work.sharer,
            "products": work.products,
            "fused": work.fused,
            "shut": work.shut,
            "matmul": lambda: square @ square,
        },
        repeat,
        device,
    )
    parts = seconds["receiver"] + seconds["sharer"] + seconds["products"]
    rate = 2 * len(square) ** 3 / seconds["matmul"]
    limit = operations(pair) * batch * (length - 1) / rate
    return {
        "seconds": seconds,
        "ratio": seconds["fused"] / parts,
        "tokens_per_second": tokens / seconds["fused"],
        "matmul_flops_per_second": rate,
        "limit_seconds": limit,
        "over_limit": seconds["fused"] / limit,
        "shut_ratio": seconds["shut"] / seconds["receiver"],
        **decode(work, written, repeat),
        **peak_memory(device),
    }


def decode(work: Work, written: int, repeat: int) -> dict[str, Any]:
    """Seconds for a token of every row, from the plain context and from the fused one."""
    model, settings = work.pair.receiver, Settings(max_tokens=written)
    contexts = {"plain": work.receiver(), "fused": work.fused()}

    def writing(context: Context) -> Callable[[], object]:
        return lambda: model.write(context, settings)

    seconds = take_turns({n: writing(c) for n, c in contexts.items()}, repeat, model.device)
    each = {name: whole / written for name, whole in seconds.items()}
    return {"decode_seconds": each, "decode_ratio": each["fused"] / each["plain"]}


def take_turns(
    ways: Mapping[str, Callable[[], object]], repeat: int, device: torch.device
) -> dict[str, float]:
    """The median seconds of each way; all take turns, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat + 1):
        for name, way in ways.items():
            wait_for(device)
            start = perf_counter()
            way()
            wait_for(device)
            seconds[name].append(perf_counter() - start)
    return {name: median(found[1:]) for name, found in seconds.items()}


class Counter(TorchDispatchMode):
    """Counts the matrix products that are called; attention is none of them."""

    names = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear"})

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket.__name__ in self.names
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_products(pair: Pair) -> dict[str, int]:
    """Calls on a short prompt, of the models and what fusion adds to those it reads with.

    With every second layer shut, from the first, the sharer is read as far as with none shut.
    """
    work = Work.of(pair, 8, 1)

    def calls(way: Callable[[], object]) -> int:
        with Counter() as counter:
            way()
        return counter.calls

    receiver, sharer = calls(work.receiver), calls(work.sharer)
    return {
        "receiver": receiver,
        "sharer": sharer,
        "fuser_open": calls(work.fused) - receiver - sharer,
        "fuser_half_shut": calls(lambda: work.fused(2)) - receiver - sharer,
        "all_shut": calls(work.shut) - receiver,
    }


def random_ids(model: Backbone, shape: tuple[int, int], draw: torch.Generator) -> Tensor:
    """Random ids of text: no special tokens, which a model may treat in its own way."""
    special = set(model.tokenizer.all_special_ids)
    ids = torch.tensor([n for n in range(len(model.tokenizer)) if n not in special])
    return ids[torch.randint(len(ids), shape, generator=draw)].to(model.device)


def operations(pair: Pair) -> int:
    """Floating point operations for each token: 2 for each weight of the parts in use."""

    def weights(model: Backbone, layers: int) -> int:
        used = model.model.base_model.layers[:layers]
        return sum(p.numel() for p in used.parameters() if p.ndim > 1)

    fuser = sum(module.weight.numel() for module in pair.linears())
    receiver = weights(pair.receiver, pair.receiver.spec.layers)
    return 2 * (receiver + weights(pair.sharer, pair.fuser.top + 1) + fuser)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB: of the process so far, and on a GPU of this case."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
    if device.type == "cuda":
        found["gpu_peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found


def table(cases: list[dict[str, Any]]) -> Table:
    """The table for a terminal; limit: fused over it, shut: over the receiver's own."""
    title = f"seconds of a prefill; ratio: fused over its parts, target {TARGET}"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in (
        *("N", "B", "receiver", "sharer", "products", "fused", "ratio"),
        *("tok/s", "limit", "shut", "decode", "GiB"),
    ):
        shown.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        size = (str(case["length"]), str(case["batch"]))
        if "skipped" in case:
            shown.add_row(*size, "skipped")
            continue
        seconds = (case["seconds"][name] for name in ("receiver", "sharer", "products", "fused"))
        shown.add_row(
            *size,
            *(f"{one:.3g}" for one in seconds),
            f"{case['ratio']:.3f}",
            f"{case['tokens_per_second']:,.0f}",
            f"{case['over_limit']:.2f}",
            f"{case['shut_ratio']:.3f}",
            f"{case['decode_ratio']:.3f}",
            f"{case.get('gpu_peak_gib', case['process_peak_gib']):.1f}",
        )
    return shown


if __name__ == "__main__":
    main()
