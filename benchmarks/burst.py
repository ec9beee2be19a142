"""Real load by a client that nobody here wrote: aiperf, with requests as BurstGPT has them.

    make load
    python -m benchmarks.burst --aiperf out/aiperf/bin/aiperf --seconds 30
    python -m benchmarks.burst --aiperf out/aiperf/bin/aiperf --trace BurstGPT_1.csv --faster 20

aiperf has an environment of its own, since it wants other versions of what is installed here. The
server is a process of its own. All load stays on loopback, and both the time and the number of
requests are bounded.

Without a trace, the gaps between requests are drawn from a Gamma distribution of shape 0.5, and the
lengths of prompts and answers from a Zipf distribution of 1.1, up to `--read` and `--written`.
These are the settings of the generator that was published with BurstGPT (arXiv 2401.17644). With
`--trace` gaps and lengths are those of a BurstGPT file, of its first requests that fit the bounds.

It fails unless each request is answered, or refused because too many wait.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.serve import pipeline_of, server
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text

SHAPE, ZIPF = 0.5, 1.1
COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
SHOWN = (
    "request_count",
    "error_request_count",
    "request_throughput",
    "output_token_throughput",
    "time_to_first_token",
    "inter_token_latency",
    "request_latency",
    "input_sequence_length",
    "output_sequence_length",
)


class Asked(NamedTuple):
    """A request of a trace: when it comes, in seconds, and its tokens."""

    at: float
    read: int
    written: int


def drawn(given: argparse.Namespace) -> Iterator[Asked]:
    """Requests without end, see above."""
    draw, at = np.random.default_rng(given.seed), 0.0

    def length(most: int) -> int:
        return next(n for n in iter(lambda: int(draw.zipf(ZIPF)), None) if 0 < n <= most)

    while True:
        yield Asked(at, length(given.read), length(given.written))
        at += float(draw.gamma(SHAPE, 1 / (SHAPE * given.rate)))


def replayed(given: argparse.Namespace) -> Iterator[Asked]:
    """The requests of a BurstGPT file, from its first one on. Those that failed had no answer."""
    with given.trace.open(newline="", encoding="utf-8") as file:
        begun: float | None = None
        for row in csv.DictReader(file):
            at, read, written = (float(row[name]) for name in COLUMNS)
            begun = at if begun is None else begun
            if read >= 1 and written >= 1:
                sizes = min(int(read), given.read), min(int(written), given.written)
                yield Asked((at - begun) / given.faster, *sizes)


def asked(given: argparse.Namespace) -> list[Asked]:
    """The requests that are sent."""
    every = replayed(given) if given.trace else drawn(given)
    return list(islice(takewhile(lambda one: one.at <= given.seconds, every), given.requests))


def measured(given: argparse.Namespace, requests: list[Asked], folder: Path) -> dict[str, Any]:
    """What aiperf says of the server under these requests."""
    trace, tokenizer = folder / "trace.csv", folder / "tokenizer"
    with trace.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *requests])
    model: Any = pipeline_of(given.model, given.threads).answerer.model
    model.tokenizer.save_pretrained(tokenizer)
    with server(given) as (url, _):
        command = [given.aiperf, "profile", "--model", "solver", "--url", url, "--streaming"]
        command += ["--endpoint-type", "completions", "--tokenizer", tokenizer]
        command += ["--input-file", trace, "--custom-dataset-type", "burst_gpt_trace"]
        command += ["--fixed-schedule", "--output-artifact-dir", folder / "found", "--ui", "none"]
        command += ["--no-gpu-telemetry", "--no-server-metrics", "--random-seed", given.seed]
        command += ["--request-timeout-seconds", given.patience, "--workers-max", 1]
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}  # offline it takes no folder
        limit = given.seconds + given.patience + 120
        subprocess.run(list(map(str, command)), env=env, timeout=limit, check=True)
    return json.loads((folder / "found" / "profile_export_aiperf.json").read_text())


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--aiperf", type=Path, required=True, help="its program")
    options.add_argument("--trace", type=Path, help="a CSV file of BurstGPT")
    options.add_argument("--faster", type=float, default=1.0, help="how many times, a trace")
    options.add_argument("--rate", type=float, default=0.5, help="requests a second, without one")
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--requests", type=int, default=200, help="the most")
    options.add_argument("--read", type=int, default=256, help="tokens of a prompt, the most")
    options.add_argument("--written", type=int, default=64, help="tokens of an answer, the most")
    options.add_argument("--patience", type=int, default=120, help="seconds for an answer")
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--users", type=int, default=16, help="answers at once")
    options.add_argument("--cache-mib", type=int, default=256)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = options.parse_args()
    requests = asked(given)
    with TemporaryDirectory() as folder:
        report = measured(given, requests, Path(folder))
    found = {name: report[name] for name in SHOWN if name in report}
    errors = {str(one["error_details"]["code"]): one["count"] for one in report["error_summary"]}
    told = {"requests": len(requests), "errors": errors, "aiperf": found}
    Console().print(told)
    if given.out:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
        del settings["out"], settings["aiperf"]
        content = {"benchmark": "burst", **settings, **told, **about_machine()}
        write_text(given.out, json.dumps(content, indent=1) + "\n")
    answered = int(found["request_count"]["avg"])
    assert set(errors) <= {"429"}, errors
    assert answered + sum(errors.values()) == len(requests), (answered, errors, len(requests))


if __name__ == "__main__":
    main()
