"""The headline numbers of README and site, made again, in stages that resume.

    make results                                # all of them, into out/headlines-CODE
    python -m benchmarks.headlines              # the same
    python -m benchmarks.headlines ttft plan    # these stages
    python -m benchmarks.headlines --list       # what stands in the README, and its results

A stage is done if its result is there. One that was stopped goes on where it was. The folder has
the digest of all code and recipes in its name, so other code begins anew. Stages that count seconds
run alone, others two at a time, each with one thread. Nothing in benchmarks/results is written.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from unspoken.evaluation.freshness import freshness

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Stage:
    """A command that writes one result.

    command: OUT in it is the folder of all stages. file: its result, in that folder. timed: whether
    its seconds count, so that nothing may run beside it. after: the stage that it builds on.
    """

    result: str
    command: str
    file: str
    timed: bool = False
    after: str = ""


_MEMORY = "unspoken measure recipes/memory.yaml --study comparison seed={0} out=OUT/memory-{0}"
_SHORT = f"{_MEMORY} comparison.channels=[full-text,text,memory] comparison.lora=null"

STAGES = {
    "fronts": Stage(
        "fronts-paragraphs",
        "unspoken measure recipes/fronts.yaml comparison.limit=500 comparison.reader=null "
        "studies.fronts.trained=[] studies.fronts.notes=[] studies.fronts.excerpts=[] "
        "studies.fronts.sentences=[1] studies.fronts.controls=100 studies.fronts.timed=32 "
        "comparison.channels=[full-text] out=OUT/fronts",
        "fronts/fronts.json",
        timed=True,
    ),
    "ttft": Stage(
        "ttft-5x1024-20",
        "python benchmarks/ttft.py --ways shifted --requests 20 --warm 2 --free 0 "
        "--out OUT/ttft.json",
        "ttft.json",
        timed=True,
    ),
    **{
        f"memory-{seed}": Stage(
            f"memory-words-{seed}", _SHORT.format(seed), f"memory-{seed}/results.json"
        )
        for seed in range(3)
    },
    "transfer": Stage(
        "memory-words-transfer",
        "unspoken measure recipes/memory.yaml --study comparison seed=0 out=OUT/transfer "
        "trained=OUT/memory-0/trained comparison.channels=[memory] comparison.lora=null "
        "comparison.reader=null comparison.transfer.name=squad_sentence",
        "transfer/results.json",
        after="memory-0",
    ),
    "fusion": Stage(
        "fusion-cities",
        "unspoken measure recipes/fusion.yaml --study comparison out=OUT/fusion",
        "fusion/results.json",
    ),
    "plan": Stage("plan-qasc", "unspoken measure recipes/plan.yaml out=OUT/plan", "plan/plan.json"),
}

Results = dict[str, Any]


@dataclass(frozen=True)
class Headline:
    """A number of README or site. stages: the results that it is the mean of. of: how one has it.

    said: the words with which it is printed there, which begin with the number.
    """

    words: str
    stages: tuple[str, ...]
    of: Callable[[Results], float]
    said: str
    shown: str = "{:.1f} %"

    def value(self, results: Sequence[Results]) -> str:
        return self.shown.format(mean(map(self.of, results)))


def _front(name: str, value: Callable[[Results], float]) -> Callable[[Results], float]:
    return lambda found: next(value(arm) for arm in found["arms"] if arm["name"] == name)


def _right(channel: str) -> Callable[[Results], float]:
    return lambda found: next(
        100 * arm["accuracy"]
        for arm in found["arms"]
        if (arm["channel"], arm["condition"]) == (channel, "matched")
    )


def _first(way: str) -> Callable[[Results], float]:
    return lambda found: found["cases"][0]["ways"][way]["ttft_seconds"][-1]


def _seconds(arm: Results) -> float:
    """Once the sender has read."""
    parts = ("preparing", "sending", "taking", "finishing")
    return median(sum(item[part] for part in parts) for item in arm["clock"]["items"])


_SEEDS = ("memory-0", "memory-1", "memory-2")

HEADLINES = (
    Headline(
        "a cache against its text",
        ("fronts",),
        _front("handoff", lambda arm: 100 * arm["against"]["value"]),
        "+0.0 [-0.6, +0.6] points",
        "{:+.1f}",
    ),
    Headline(
        "an answer from a cache", ("fronts",), _front("handoff", _seconds), "0.73 s", "{:.2f} s"
    ),
    Headline(
        "an answer from its text", ("fronts",), _front("full-text", _seconds), "1.49", "{:.2f}"
    ),
    Headline(
        "right with a found sentence",
        ("fronts",),
        _front("found sentences, 1", lambda arm: 100 * arm["matched"]["accuracy"]),
        "28 % right",
        "{:.0f} %",
    ),
    Headline("first word, with a pool", ("ttft",), _first("shifted"), "0.31 s", "{:.2f} s"),
    Headline("first word, without a pool", ("ttft",), _first("dense"), "8.39 s", "{:.2f} s"),
    Headline("right with a projected cache", _SEEDS, _right("memory"), "77.3 %"),
    Headline("right with a note", _SEEDS, _right("text, tuned reader"), "77.0 %"),
    Headline("right with the text", _SEEDS, _right("full-text, tuned reader"), "79.0 %"),
    Headline(
        "right on another kind of text",
        ("transfer",),
        _right("memory"),
        "17 % on SQuAD",
        "{:.0f} %",
    ),
    Headline(
        "content of fused caches",
        ("fusion",),
        lambda found: 100 * found["channels"]["fusion"]["content"]["value"],
        "+10 points [+4, +15] of content",
        "{:+.0f} points",
    ),
    Headline(
        "votes that lost against one agent",
        ("plan",),
        lambda found: sum(vote["difference"]["value"] < 0 for vote in found["votes"]),
        "10 of 10 settings",
        "{:.0f}",
    ),
)
"""At most twelve: what README and site say first."""


def code_digest() -> str:
    """A digest of all code and recipes."""
    paths = [
        path
        for folder in ("unspoken", "benchmarks", "recipes")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".yaml")
    ]
    named = [f"{path.relative_to(ROOT)} {sha256(path.read_bytes()).hexdigest()}" for path in paths]
    return sha256("\n".join(named).encode()).hexdigest()[:12]


def make(names: Iterable[str], stages: dict[str, Stage], out: Path) -> dict[str, float]:
    """Run those that are not done. Returns the seconds of each. Ends the program if one fails."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in stages if name in set(names)]
    todo = [name for name in wanted if not (out / stages[name].file).exists()]
    took: dict[str, float] = {}

    def run(name: str) -> None:
        begun = perf_counter()
        _run(stages[name], out)
        took[name] = perf_counter() - begun

    alone = [name for name in todo if stages[name].timed]
    beside = [name for name in todo if not stages[name].timed]
    for name in alone:
        run(name)
    for later in (False, True):  # what builds on another stage comes after it
        batch = [name for name in beside if bool(stages[name].after) == later]
        with ThreadPoolExecutor(2) as two:
            for _ in two.map(run, batch):
                pass
    return took


def _run(stage: Stage, out: Path) -> None:
    words = [word.replace("OUT", str(out)) for word in shlex.split(stage.command)]
    start = {"python": [sys.executable], "unspoken": [sys.executable, "-m", "unspoken"]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = out / f"{stage.result}.log"
    with log.open("ab") as told:
        ended = subprocess.run(
            [*start[words[0]], *words[1:]], cwd=ROOT, env=environment, stdout=told, stderr=told
        )
    if ended.returncode or not (out / stage.file).exists():
        raise SystemExit(f"{stage.command}\nended with {ended.returncode}; {log} says why")


def table(out: Path) -> Table:
    """Each headline: what is printed of it, of which code its results are, what was made again."""
    found = Table("headline", "printed", "its results are", "made again")
    for headline in HEADLINES:
        kept = [_read(COMMITTED / f"{STAGES[stage].result}.json") for stage in headline.stages]
        states = sorted({freshness(one or {}).state for one in kept})
        made = [_read(out / STAGES[stage].file) for stage in headline.stages]
        again = [one for one in made if one is not None]
        value = headline.value(again) if len(again) == len(made) else "-"
        found.add_row(headline.words, headline.said, " and ".join(states), value)
    return found


def _read(path: Path) -> Results | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    options.add_argument("--list", action="store_true", help="run nothing")
    options.add_argument("--out", type=Path, default=ROOT / "out" / f"headlines-{code_digest()}")
    given = options.parse_args(arguments)
    if unknown := set(given.stages) - set(STAGES):
        options.error(f"there is no stage {', '.join(sorted(unknown))}; there are: {list(STAGES)}")
    out: Path = given.out
    if not given.list:
        took = make(given.stages or STAGES, STAGES, out)
        for name, seconds in took.items():
            print(f"{name}: {seconds / 60:.1f} minutes")
    Console().print(table(out))


if __name__ == "__main__":
    main()
