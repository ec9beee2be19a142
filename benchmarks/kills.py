"""Kills at random moments of all that is kept: is anything lost, left over, or other than it was?

    python benchmarks/kills.py --kills 300

Tiny models. Each work (saving a pool, training of three kinds, a comparison, a conversion) runs
once without an interruption, then again and again in rounds: it is killed (SIGKILL) at random
moments, started again each time, and in the end left alone. What was whole after a kill must stay,
no hidden file or folder may be left at the end, and every file must be equal to that of the run
without an interruption. The conversion joins made-up parts: a real one differs in nothing but what
it writes. Seconds, machines and pictures are not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import torch

from unspoken import models
from unspoken.anchors import AnchorPool
from unspoken.files import write_text
from unspoken.recipe import load_recipe, measurements
from unspoken.relay.train import train_by
from unspoken.testing import tiny_backbone
from unspoken.types import Prompt, Text

A_ROUND = 5
"""Kills before a work is left alone."""

STAGE = "{steps: 12, batch_size: 4, warmup: 1, every: 1}"
KINDS = {
    "embedding": "{kind: embedding, layers: [0, 2], hidden: 16, prompt: 2}",
    "memory": "{kind: memory, width: 56, hidden: 16, prompt: 2, texts: 20}",
    "fusion": "{kind: fusion, hidden: 16, inner: 16}",
}


# -- the works -------------------------------------------------------------------------------------


def save_pools(home: Path) -> None:
    """One pool, saved over another again and again."""
    pools = []
    for count in (2, 6):
        pool = AnchorPool("shifted")
        reader = pool.wrap(tiny_backbone())
        for n in range(count):
            reader.read(Prompt((Text((f"The key number {n} is in drawer {n}.",)),)))
        pools.append(pool)
    for _ in range(20):
        for pool in pools:
            pool.save(home / "pool")


def train(kind: str) -> Callable[[Path], None]:
    def work(home: Path) -> None:
        train_by(load_recipe("relay", settings(home, kind)))

    return work


def compare(home: Path) -> None:
    (measurement,) = measurements(load_recipe("relay", settings(home, "embedding")), "comparison")
    measurement.run()


def convert(home: Path) -> None:
    models._convert = _join
    models._converted(models.Packaged("toy", (("toy_parts", "a.part"),), "f00d", "MIT", "a toy"))


def _join(model: models.Packaged, parts: list[Path], folder: Path) -> None:
    for n in range(40):
        (folder / f"weights-{n}").write_bytes(bytes([n]) * (1 << 18))
        sleep(0.005)
    models._seal(model, folder)


def settings(home: Path, kind: str) -> list[str]:
    given = home.parent / "given"
    return [
        *(f"pair.{side}.model={given / side}" for side in ("sender", "receiver")),
        *(f"task.{split}={given / split}.jsonl" for split in ("train", "test")),
        "task.validation=4",
        "validation=4",
        "prompts={instruction: Answer., shots: 1, note_instructions: '', note_tokens: 4}",
        "prompts.answer_tokens=4",
        f"projector={KINDS[kind]}",
        f"warmup={STAGE}",
        f"training={STAGE}",
        f"comparison.channels=[full-text, {kind}]",
        "comparison.reader.vectors=2",
        "comparison.constant.vectors=3",
        "comparison.limit=4",
        f"out={home / 'out'}",
    ]


def prepare(folder: Path) -> None:
    """Models and a task for trainings, and a package for the conversion."""
    for name, backbone in {
        "sender": tiny_backbone("gemma", width=24),
        "receiver": tiny_backbone("llama"),
    }.items():
        backbone.model.save_pretrained(folder / name)
        backbone.tokenizer.save_pretrained(folder / name)
    for split, count in {"train": 24, "test": 6}.items():
        rows = [
            {
                "id": f"{split}-{n}",
                "context": f"{split} {n} likes {'tea' if n % 2 else 'milk'} {n}.",
                "question": f"What does {split} {n} like?",
                "answers": [f"{'tea' if n % 2 else 'milk'} {n}"],
            }
            for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "toy_parts").mkdir()
    (folder / "toy_parts" / "__init__.py").touch()
    (folder / "toy_parts" / "a.part").touch()


WORKS: dict[str, Callable[[Path], None]] = {
    "pool": save_pools,
    **{f"training, {kind}": train(kind) for kind in KINDS},
    "comparison": compare,
    "conversion": convert,
}


# -- kills -----------------------------------------------------------------------------------------


@contextmanager
def running(work: Callable[[Path], None], home: Path) -> Iterator[int]:
    """A work in a process of its own, which ends at the end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.environ["UNSPOKEN_CACHE"] = str(home / "cache")
            work(home)
            code = 0
        finally:
            os._exit(code)
    yield child


def finished(work: Callable[[Path], None], home: Path) -> bool:
    with running(work, home) as child:
        return os.waitpid(child, 0)[1] == 0


def killed(work: Callable[[Path], None], home: Path, after: float) -> bool:
    """Whether the work was killed. It may have ended before."""
    with running(work, home) as child:
        sleep(after)
        os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == signal.SIGKILL


def torment(work: Callable[[Path], None], home: Path, kills: int, rng: Random) -> dict[str, Any]:
    """Counts of what a work met: `bad` names what was lost, left over or unequal."""
    start = monotonic()
    _fresh(home)
    assert finished(work, home), f"{work} fails without a kill"
    seconds, wanted = monotonic() - start, contents(home)
    found, bad = Counter[str](), list[str]()
    while found["kills"] < kills:
        _fresh(home)
        found["rounds"] += 1
        whole: set[str] = set()
        for _ in range(min(A_ROUND, kills - found["kills"])):
            if killed(work, home, seconds * rng.random()):
                found["kills"] += 1
                found["hidden after a kill"] += bool(hidden(home))
            now = wholes(home)
            bad += [f"lost {name}" for name in sorted(whole - now)]
            whole |= now
        bad += [] if finished(work, home) else ["an error after kills"]
        bad += [f"left over {name}" for name in hidden(home)]
        ended = contents(home)
        unequal = {name for name in wanted | ended if wanted.get(name) != ended.get(name)}
        bad += [f"unequal {name}" for name in sorted(unequal)]
    return {**found, "seconds without a kill": round(seconds, 2), "bad": bad}


def _fresh(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()


_MARKS = {"pool.json", "config.json", "manifest.json"}


def wholes(home: Path) -> set[str]:
    """Folders in their place that are whole."""
    marks = (path for path in home.rglob("*") if path.name in _MARKS)
    places = {str(path.parent.relative_to(home)) for path in marks}
    return {place for place in places if not place.startswith(".") and "/." not in place}


def hidden(home: Path) -> list[str]:
    return sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.name.startswith("."))


_TIMES = {"seconds", "training_seconds", "machine", "timed", "wait", "sha256"}


def contents(home: Path) -> dict[str, str]:
    """Each file by a digest of what is no time, machine or digest, without locks and pictures."""
    files = (path for path in home.rglob("*") if path.is_file())
    return {
        str(path.relative_to(home)): sha256(_timeless(path)).hexdigest()
        for path in files
        if path.suffix not in (".lock", ".svg", ".md") or path.name == "README.md"
    }


def _timeless(path: Path) -> bytes:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return json.dumps([_without_times(json.loads(line)) for line in lines]).encode()


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_times(one) for key, one in content.items() if key not in _TIMES}
    return [_without_times(one) for one in content] if isinstance(content, list) else content


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=300, help="over all works")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--work", nargs="*", choices=WORKS, default=list(WORKS))
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    given = options.parse_args()
    torch.set_num_threads(1)
    from unspoken.evaluation.result import about_machine

    result: dict[str, Any] = {"benchmark": "kills", "seed": given.seed, "kills": 0, "works": {}}
    result |= about_machine()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "given").mkdir()
        prepare(place / "given")
        sys.path.insert(0, str(place / "given"))
        for n, name in enumerate(given.work):
            count = given.kills // len(given.work) + (n < given.kills % len(given.work))
            found = torment(WORKS[name], place / "home", count, Random(given.seed + n))
            result["works"][name] = found
            result["kills"] += found["kills"]
            write_text(given.out, json.dumps(result, indent=1) + "\n")
            print(name, json.dumps(found), flush=True)
    sys.exit(any(found["bad"] for found in result["works"].values()))


if __name__ == "__main__":
    main()
