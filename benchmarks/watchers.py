"""What it costs a server that its runs are watched: CPU seconds of its process, in pairs.

    python -m benchmarks.watchers
    python -m benchmarks.watchers --rounds 20 --tokens 64 --out benchmarks/results/watchers.json

One question to two agents on SmolLM2-135M, streamed, again and again, in arms that take turns:

* plain: a client of OpenAI's API, which is shown the answer alone;
* shown: a client that is shown turns and messages too, which is what the page asks for;
* one, fifty: the same, with followers that read all of it;
* page: the page itself in headless Chromium asks.

A machine with other work makes the seconds of a model uncertain. So the same arms are asked of a
script that writes 25 letters a second and computes nothing: what an arm costs more there, for each
letter, beside what the model takes for a token, is the second column of per cent.

Clients and Chromium are other processes. The server's process is counted, and within it the thread
that talks to clients. What Chromium takes is counted beside; on a machine with few cores it slows
the model too. All arms write the same tokens, and the same prompt is known to all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from unspoken import Agent, Backbone, Edge, Pipeline, Role, Settings, make_channel
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.protocols import Model
from unspoken.serving import Guard, ServedPipeline, Server, Service
from unspoken.serving.server import listener
from unspoken.testing import ScriptedModel
from unspoken.types import Context, OnText, Words

ARMS = {"plain": 0, "shown": 0, "one": 1, "fifty": 50, "page": 0}
PACE = 0.04
"""Seconds for a letter of the script."""

QUESTION = "Name the months of the year, and say of each what it is known for."


class Endless(Backbone):
    """A model whose turns end at their limit alone."""

    @property
    def ends(self) -> tuple[int, ...]:
        return ()


class Typist(ScriptedModel):
    """Writes letters one by one, at the pace of a model."""

    def write(
        self, context: Context, settings: Settings = Settings(), on_text: OnText | None = None
    ) -> Words:
        def told(row: int, words: str) -> None:
            for letter in words:
                time.sleep(PACE)
                if on_text is not None:
                    on_text(row, letter)

        return super().write(context, settings, told)


class Passes:
    """Counts the passes of a model, by its first layer."""

    def __init__(self, model: Backbone) -> None:
        self.count = 0
        model.body.layers[0].register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.count += 1


# -- the other process: clients -------------------------------------------------------------------


async def _streamed(port: int, head: str, body: bytes = b"") -> int:
    """Read a stream to its end. Returns its bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    more = f"Host: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(f"{head} HTTP/1.1\r\n{more}".encode() + body)
    found = await reader.read()
    writer.close()
    assert b"data: [DONE]" in found, found[-300:]
    return len(found)


async def _asked(port: int, model: str, shown: bool, followers: int) -> int:
    """Ask, with followers. Returns the bytes that all have read."""
    messages = [{"role": "user", "content": QUESTION}]
    content = {"model": model, "messages": messages, "stream": True, "unspoken": shown}
    body = json.dumps(content).encode()
    asks = asyncio.create_task(_streamed(port, "POST /v1/chat/completions", body))
    reads = list[asyncio.Task[int]]()
    while followers and not reads:
        await asyncio.sleep(0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        found = json.loads((await reader.read()).split(b"\r\n\r\n", 1)[1])["data"]
        writer.close()
        names = [run["id"] for run in found if not run["over"]]
        paths = [f"GET /v1/runs/{name}" for name in names for _ in range(followers)]
        reads = [asyncio.create_task(_streamed(port, path)) for path in paths]
    return sum(await asyncio.gather(asks, *reads))


def clients(port: int, pipe: Connection) -> None:
    """Do what the server's process says, until it says nothing more."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = None
        while (told := pipe.recv()) is not None:
            model, arm = told
            if arm == "page":
                page = browser.new_page()
                page.goto(f"http://127.0.0.1:{port}/")
                page.wait_for_selector("#model option", state="attached")
                page.select_option("#model", model)
                page.fill("#question", QUESTION)
                pipe.send("ready")
                pipe.recv()
                page.keyboard.press("Enter")
                page.get_by_text("Keep this run").wait_for(timeout=600_000)
                pipe.send(None)
                page.close()
            else:
                pipe.send("ready")
                pipe.recv()
                thread_of = threading.Thread(
                    target=lambda model=model, arm=arm: pipe.send(
                        asyncio.run(_asked(port, model, arm != "plain", ARMS[arm]))
                    )
                )  # playwright has the loop of this thread
                thread_of.start()
                thread_of.join()
        browser.close()


# -- this process: the server ---------------------------------------------------------------------


@contextmanager
def serving(pipelines: dict[str, Pipeline]) -> Iterator[tuple[int, Callable[[], float]]]:
    """A server in a thread: its port, and the CPU seconds of that thread."""
    served = {name: ServedPipeline(pipeline) for name, pipeline in pipelines.items()}
    service = Service(served, Guard((), "127.0.0.1"))
    with listener("127.0.0.1", 0, 30) as place:
        thread = threading.Thread(target=Server(service).run, args=([place],))
        thread.start()
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        try:
            yield place.getsockname()[1], lambda: time.clock_gettime(clock)
        finally:
            service.draining = True
            thread.join()


def team(model: Model, tokens: int) -> Pipeline:
    """A writer of notes and a solver, who both write a given number of tokens."""
    settings = Settings(max_tokens=tokens)
    agents = [
        Agent("planner", model, role=Role("Plan an answer."), settings=settings),
        Agent("solver", model, role=Role("Answer.", "{messages}{question}"), settings=settings),
    ]
    return Pipeline(agents, [Edge("planner", "solver", make_channel("text"))])


def in_chromium() -> float:
    """CPU seconds of all processes of Chromium that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        if "chrom" in process.name():
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--tokens", type=int, default=64, help="that each agent writes")
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    torch.set_num_threads(1)
    model = Endless.from_pretrained("smollm2-135m-instruct", dtype="float32")
    typist = Typist(lambda _: "x" * given.tokens)
    passes = Passes(model)
    rows: list[dict[str, dict[str, dict[str, float]]]] = []
    pipelines = {"model": team(model, given.tokens), "script": team(typist, given.tokens)}
    with serving(pipelines) as (port, loop_seconds):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(target=clients, args=(port, theirs))
        child.start()
        try:
            for number in range(given.rounds + 1):
                names = list(ARMS) if number % 2 else list(ARMS)[::-1]
                row = {
                    served: {
                        name: measured(served, name, ours, passes, loop_seconds) for name in names
                    }
                    for served in pipelines
                }
                if number:  # the first round is to warm up
                    rows.append(row)
        finally:
            ours.send(None)
            child.join()
    content = {
        "benchmark": "watchers",
        "model": "smollm2-135m-instruct",
        "tokens": 2 * given.tokens,
        "rounds": rows,
        "found": found(rows),
        **about_machine(),
    }
    show(content["found"])
    if given.out:
        write_text(given.out, json.dumps(content, indent=1) + "\n")


def measured(
    served: str, arm: str, pipe: Connection, passes: Passes, loop_seconds: Callable[[], float]
) -> dict[str, float]:
    """One question: CPU seconds of this process, of its loop and of Chromium, seconds, passes."""
    pipe.send((served, arm))
    pipe.recv()
    before, browser = passes.count, in_chromium()
    started, cpu, loop = time.perf_counter(), time.process_time(), loop_seconds()
    pipe.send("go")
    pipe.recv()
    return {
        "cpu": time.process_time() - cpu,
        "loop": loop_seconds() - loop,
        "seconds": time.perf_counter() - started,
        "chromium": in_chromium() - browser,
        "passes": passes.count - before,
    }


def found(rows: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """Each arm beside `plain`, round by round, in per cent of the CPU seconds of the model."""
    model = median(row["model"]["plain"]["cpu"] for row in rows)
    told = {}
    for arm in ARMS:
        pairs = [(row["model"][arm], row["model"]["plain"]) for row in rows]
        scripted = [row["script"][arm]["cpu"] - row["script"]["plain"]["cpu"] for row in rows]
        ordered = sorted(100 * (one["cpu"] / plain["cpu"] - 1) for one, plain in pairs)
        told[arm] = {
            "cpu": median(one["cpu"] for one, _ in pairs),
            "more": median(ordered),
            "more_least": ordered[len(ordered) // 4],
            "more_most": ordered[-1 - len(ordered) // 4],
            "more_by_script": 100 * median(scripted) / model,
            "loop": median(
                100 * (one["loop"] - plain["loop"]) / plain["cpu"] for one, plain in pairs
            ),
            "seconds": median(one["seconds"] for one, _ in pairs),
            "chromium": median(one["chromium"] for one, _ in pairs),
            "passes": median(one["passes"] for one, _ in pairs),
        }
    return told


def show(found: dict[str, dict[str, float]]) -> None:
    heads = ("CPU s", "more, %", "by the script, %", "loop, %", "seconds", "Chromium", "passes")
    table = Table("arm", *heads)
    for arm, one in found.items():
        more = f"{one['more']:.1f} [{one['more_least']:.1f}, {one['more_most']:.1f}]"
        names = ("more_by_script", "loop", "seconds", "chromium")
        numbers = [f"{one[name]:.2f}" for name in names]
        table.add_row(arm, f"{one['cpu']:.2f}", more, *numbers, f"{one['passes']:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
