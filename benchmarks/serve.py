"""The server under load: one user, many, too many, users who vanish, users who come at random.

    python -m benchmarks.serve
    python -m benchmarks.serve --arms one many --rounds 5 --out benchmarks/results/serve.json

The server is a process of its own, the load comes from this one, and all of it stays on loopback.
benchmarks/serving.py measures the same model without a server. The arms:

* one: a single user beside `pipeline.stream`, turn by turn: time to the first words, time a token;
* many: `--users` at once, beside requests one after the other, and beside the same requests to
  `transformers serve`, plain and with continuous batching, if `--peers` names them;
* overload: requests come twice as fast as `many` was answered, for `--seconds`;
* vanish: `--vanishing` clients, of which each goes away at a random moment, or reads to the end;
* random: requests come at 70 % of the rate of `many`, with gaps of a Poisson process, and of a
  Gamma process of the coefficient of variation `--variation`.

No word ends an answer here, so all have as many tokens as they ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean, median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, sleep
from typing import Any

import httpx
import torch
from rich.console import Console

from benchmarks.serving import Endless, prompts
from unspoken import Agent, Pipeline, Role, Settings
from unspoken.evaluation.result import about_machine
from unspoken.events import WordsWritten
from unspoken.files import write_text
from unspoken.serving import Bounds, ServedPipeline, serve

PATH = "/v1/completions"
BATCHED = ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "1024"]
PEERS = {"plain": [], "continuous": [*BATCHED, "--no-cb-use-cuda-graph"]}


@dataclass(frozen=True)
class Asked:
    """One request: its status, seconds to the first words, to the end, and pieces of words."""

    status: int
    first: float = 0.0
    whole: float = 0.0
    pieces: int = 0


def pipeline_of(name: str, threads: int) -> Pipeline:
    torch.set_num_threads(threads)
    model = Endless.from_pretrained(name, dtype="float32")
    role = Role(template="{question}", chat=False)
    return Pipeline([Agent("solver", model, role=role, settings=Settings(64))])


def run_server(name: str, threads: int, bounds: Bounds, ready: Any) -> None:
    """What the other process does."""
    served = {"solver": ServedPipeline(pipeline_of(name, threads))}
    serve(served, port=0, bounds=bounds, ready=ready.send)


@contextmanager
def server(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    most = 2 * given.users
    bounds = Bounds(
        running=given.users, waiting=most, waiting_each=most, cache=given.cache_mib << 20
    )
    process = context.Process(target=run_server, args=(given.model, given.threads, bounds, there))
    process.start()
    try:
        yield here.recv(), process
    finally:
        process.terminate()
        process.join()
        print(f"the server ended with {process.exitcode}")


async def ask(
    client: httpx.AsyncClient, words: str, tokens: int, leaves: float = 2.0, name: str = "solver"
) -> Asked:
    """Ask for a stream. leaves: the share of it after which the client goes away."""
    body = {"model": name, "prompt": words, "max_tokens": tokens, "stream": True}
    begun, first, pieces = perf_counter(), 0.0, 0
    async with client.stream("POST", PATH, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            return Asked(response.status_code)
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            told = json.loads(line.removeprefix("data: "))
            if "error" in told:
                return Asked(500)
            if told["choices"] and told["choices"][0]["text"]:
                first, pieces = first or perf_counter() - begun, pieces + 1
            if pieces >= leaves * tokens:
                return Asked(0)
    return Asked(200, first, perf_counter() - begun, pieces)


@contextmanager
def peer(
    folder: Path, more: Sequence[str], threads: int
) -> Iterator[tuple[httpx.AsyncClient, int]]:
    """`transformers serve`, once it answers, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--port", str(port), *more], env=env, **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            sleep(0.5)
        yield httpx.AsyncClient(base_url=url, timeout=600, trust_env=False), process.pid
    finally:
        process.kill()
        process.wait()


def cpu(pid: int) -> float:
    """Seconds of the processor that a server has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def at_once(
    client: httpx.AsyncClient, pid: int, texts: Sequence[str], tokens: int, name: str = "solver"
) -> tuple[float, float]:
    """Tokens per second, and per second of the processor, of requests that come at once."""
    begun, busy = perf_counter(), cpu(pid)
    asked = await asyncio.gather(*(ask(client, text, tokens, name=name) for text in texts))
    assert all(one.status == 200 for one in asked), asked
    written = len(texts) * tokens
    return written / (perf_counter() - begun), written / (cpu(pid) - busy)


async def paced(
    client: httpx.AsyncClient, texts: Sequence[str], tokens: int, gaps: Sequence[float]
) -> list[Asked]:
    """Requests that come after these gaps, whatever became of those before."""
    tasks: list[asyncio.Task[Asked]] = []
    at = perf_counter()
    for text, gap in zip(texts, gaps, strict=True):
        at += gap
        await asyncio.sleep(max(0.0, at - perf_counter()))
        tasks.append(asyncio.create_task(ask(client, text, tokens)))
    return list(await asyncio.gather(*tasks))


def beside(pipeline: Pipeline, text: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first words and to the end, without a server."""
    line = pipeline.with_answer_settings(Settings(tokens))
    begun, first = perf_counter(), 0.0
    with line.stream(text) as events:
        for event in events:
            if isinstance(event, WordsWritten):
                first = first or perf_counter() - begun
    return first, perf_counter() - begun


def times(rates: dict[str, list[float]]) -> dict[str, float]:
    """How many times the rate of each other arm all together have, round by round: the median."""
    return {
        name: median(own / other for own, other in zip(rates["together"], each, strict=True))
        for name, each in rates.items()
        if name != "together"
    }


class Load:
    """The arms, on one server."""

    def __init__(self, given: argparse.Namespace, url: str, pid: int) -> None:
        self.given, self.pid = given, pid
        self.pipeline = pipeline_of(given.model, given.threads)
        model: Any = self.pipeline.answerer.model
        self.texts = prompts(model, 256, given.read)
        self.limits = httpx.Limits(max_connections=None)
        self.client = httpx.AsyncClient(
            base_url=url, timeout=600, limits=self.limits, verify=False, trust_env=False
        )
        self.draw = random.Random(given.seed)
        self.rate = 0.0  # requests a second, of `many`
        self.idle: list[float] = []
        self.healths: list[float] = []
        self.waits: list[float] = []
        self.sizes: list[int] = []

    def some(self, count: int) -> list[str]:
        """Texts that the server does not know: each begins in its own way."""
        return [f"{self.draw.random()} {self.draw.choice(self.texts)}" for _ in range(count)]

    async def one(self) -> dict[str, Any]:
        tokens, first, each, work = self.given.written, list[float](), list[float](), list[float]()
        await ask(self.client, *self.some(1), 4)
        beside(self.pipeline, *self.some(1), 4)
        rows: list[dict[str, float]] = []
        for _ in range(self.given.rounds):
            begun = cpu(self.pid)
            served = await ask(self.client, *self.some(1), tokens)
            busy, begun = cpu(self.pid) - begun, process_time()
            plain = await asyncio.to_thread(beside, self.pipeline, *self.some(1), tokens)
            work.append(busy / (process_time() - begun))
            self.idle.append(served.first)
            first.append(served.first / plain[0])
            each.append((served.whole - served.first) / (plain[1] - plain[0]))
            rows.append({"served": served.first, "plain": plain[0]})
        return {
            "first_words_over_plain": first,
            "each_token_over_plain": each,
            "cpu_seconds_over_plain": work,
            "seconds": rows,
        }

    async def many(self) -> dict[str, Any]:
        given = self.given
        with ExitStack() as opened:
            folder = Path(opened.enter_context(TemporaryDirectory()))
            if given.peers:
                self.save(folder)
            peers = {
                name: opened.enter_context(peer(folder, PEERS[name], given.threads))
                for name in given.peers
            }
            for client, _ in peers.values():
                await ask(client, *self.some(1), 4, name=str(folder))
            own, names = (self.client, self.pid), ("together", "alone", *peers)
            rates: dict[str, list[float]] = {name: [] for name in names}
            work: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(given.rounds):
                texts = self.some(given.users)
                alone = [await at_once(*own, [one], given.written) for one in texts[: given.alone]]
                found = {
                    "together": await at_once(*own, self.some(given.users), given.written),
                    "alone": tuple(map(harmonic_mean, zip(*alone, strict=True))),
                }
                for name, one in peers.items():
                    found[name] = await at_once(*one, texts, given.written, str(folder))
                for name, (rate, busy) in found.items():
                    rates[name].append(rate)
                    work[name].append(busy)
        self.rate = median(rates["together"]) / given.written
        return {
            "tokens_per_second": rates,
            "tokens_per_cpu_second": work,
            "times": times(rates),
            "times_by_cpu_seconds": times(work),
            "requests_per_second": self.rate,
        }

    def save(self, folder: Path) -> None:
        """The model for a peer, whose answers end at their limit alone."""
        model: Any = self.pipeline.answerer.model
        model.model.generation_config.eos_token_id = None
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)

    async def overload(self) -> dict[str, Any]:
        given, before = self.given, self.memory()
        count = max(1, round(2 * self.rate * given.seconds))
        begun, health = perf_counter(), asyncio.create_task(self.health())
        asked = await paced(self.client, self.some(count), given.written, [0.5 / self.rate] * count)
        seconds = perf_counter() - begun
        health.cancel()
        with suppress(asyncio.CancelledError):
            await health
        done = sum(one.status == 200 for one in asked)
        return {
            "requests": count,
            "statuses": dict(Counter(one.status for one in asked)),
            "of_best_rate": done / seconds / self.rate,
            "slowest_health": max(self.healths),
            "most_waiting": max(self.waits),
            "memory_mib": [before, *self.sizes[:: max(1, len(self.sizes) // 20)], self.memory()],
            **await self.left(),
        }

    async def vanish(self) -> dict[str, Any]:
        given, before = self.given, self.memory()
        first = await self.said()
        slots = asyncio.Semaphore(2 * given.users)

        async def one(text: str) -> int:
            async with slots:
                leaves = self.draw.choice([0.0, self.draw.random(), 2.0])
                task = asyncio.create_task(ask(self.client, text, given.written, leaves))
                if self.draw.random() < 0.3:
                    await asyncio.wait([task], timeout=self.draw.random())
                    task.cancel()
                try:
                    return (await task).status
                except (asyncio.CancelledError, httpx.HTTPError):
                    return -1

        statuses = await asyncio.gather(*map(one, self.some(given.vanishing)))
        return {
            "statuses": dict(Counter(statuses)),
            "same_answer_after": first == await self.said(),
            "memory_mib": [before, self.memory()],
            **await self.left(),
        }

    async def random(self) -> dict[str, Any]:
        given, mean = self.given, 1 / (0.7 * self.rate)
        shape = given.variation**-2
        gaps: dict[str, Callable[[], float]] = {
            "poisson": lambda: self.draw.expovariate(1 / mean),
            "gamma": lambda: self.draw.gammavariate(shape, mean / shape),
        }
        found: dict[str, Any] = {"idle_first_words": median(self.idle)}
        for name, gap in gaps.items():
            count = given.arrivals
            asked = await paced(
                self.client, self.some(count), given.written, [gap() for _ in range(count)]
            )
            first = [one.first for one in asked if one.status == 200]
            slow = quantiles(first, n=20)[-1]
            found[name] = {
                "first_words_median": median(first),
                "first_words_95": slow,
                "over_idle": slow / median(self.idle),
                "statuses": dict(Counter(one.status for one in asked)),
            }
        return found

    async def health(self) -> None:
        """Ask for it, again and again; note the seconds that it took, the queue and the memory."""
        while True:
            begun = perf_counter()
            response = await self.client.get("/health")
            assert response.status_code == 200
            self.healths.append(perf_counter() - begun)
            self.waits.append((await self.counted())["waiting"])
            self.sizes.append(self.memory())
            await asyncio.sleep(0.5)

    async def counted(self) -> dict[str, float]:
        """The requests that wait and run."""
        page = (await self.client.get("/metrics")).text
        lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
        return {one: float(lines[f"unspoken_{one}_requests"]) for one in ("waiting", "running")}

    async def said(self) -> str:
        body = {"model": "solver", "prompt": "Once upon a time", "max_tokens": 8}
        response = await self.client.post("/v1/completions", json=body)
        return response.json()["choices"][0]["text"]

    async def left(self) -> dict[str, float]:
        """What the server still does, once it had the time of some requests to end."""
        for _ in range(20):
            found = await self.counted()
            if not any(found.values()):
                break
            await asyncio.sleep(0.2)
        return found

    def memory(self) -> int:
        """MiB that the server has."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10


ARMS = ("one", "many", "overload", "vanish", "random")


def write(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what was found so far, if there is a file for it."""
    if given.out:
        settings = {name: value for name, value in vars(given).items() if name != "out"}
        content = {"benchmark": "serve", **settings, "arms": found, **about_machine()}
        write_text(given.out, json.dumps(content, indent=1) + "\n")


async def measured(given: argparse.Namespace, url: str, pid: int) -> None:
    load = Load(given, url, pid)
    found: dict[str, Any] = {}
    needs = {"overload": {"many"}, "random": {"one", "many"}}
    wanted = set(given.arms).union(*(needs.get(arm, set()) for arm in given.arms))
    for arm in ARMS:
        if arm in wanted:
            found[arm] = await getattr(load, arm)()
            Console().print(arm, found[arm])
            write(given, found)
    await load.client.aclose()


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options.add_argument("--users", type=int, default=16)
    options.add_argument("--peers", nargs="*", choices=list(PEERS), default=[])
    options.add_argument("--alone", type=int, default=2, help="requests one after the other")
    options.add_argument("--read", type=int, default=64, help="tokens of a prompt")
    options.add_argument("--written", type=int, default=64, help="tokens of an answer")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=30.0, help="of overload")
    options.add_argument("--vanishing", type=int, default=100)
    options.add_argument("--arrivals", type=int, default=40)
    options.add_argument("--variation", type=float, default=3.0)
    options.add_argument("--cache-mib", type=int, default=256)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    with server(given) as (url, process):
        asyncio.run(measured(given, url, process.pid))


if __name__ == "__main__":
    main()
