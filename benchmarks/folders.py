"""Two writers and readers of one folder: is it ever missing, or of two versions?

    python benchmarks/folders.py --seconds 60
    python benchmarks/folders.py --seconds 60 --moves     # as on systems without an exchange

Each writer replaces the folder again and again, with three files that hold the same number. One
reader opens a file by its path; it must always be there. Another reads all files by `read_folder`;
they must be of one version. `unguarded` counts, for comparison, how often three files that are
opened one after another, without `read_folder`, are of two versions. Without an exchange a path may
lead to nothing for a moment (`missing`); `read_folder` waits for it (`unread` stays 0).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic

from unspoken.files import atomic_folder, read_folder, switching, write_text

FILES = ("a", "b", "c")


def contend(home: Path, seconds: float, *, moves: bool = False) -> dict[str, int]:
    """What writers and readers did and met, by name. Writers stop after some seconds.

    moves: let the system have no exchange of two names, so that folders are moved twice.
    """
    context, target = multiprocessing.get_context("spawn"), home / "folder"
    _fill(target, "0")
    work = [(_write, 1), (_write, 2), (_open, 0), (_read, 0)]
    told, ready = context.SimpleQueue(), context.Barrier(len(work))
    started = [
        context.Process(target=_run, args=(one, target, seconds, number, moves, told, ready))
        for one, number in work
    ]
    for process in started:
        process.start()
    found = sum((Counter(told.get()) for _ in started), Counter())
    for process in started:
        process.join()
    names = ("writes", "opens", "missing", "unguarded", "reads", "unread", "mixed", "errors")
    left = [path.name for path in home.iterdir() if path != target]
    return {name: found[name] for name in names} | {"left over": len(left)}


def _run(work, target: Path, seconds: float, number: int, moves: bool, told, ready) -> None:
    if moves:
        switching._renameat2 = None
    found: Counter[str] = Counter()
    ready.wait()
    end = monotonic() + seconds
    try:
        while monotonic() < end:
            work(target, number, found)
    except Exception as error:
        found["errors"] += 1
        print(f"{type(error).__name__}: {error}")
    told.put(dict(found))


def _write(target: Path, number: int, found: Counter[str]) -> None:
    found["writes"] += 1
    _fill(target, f"{number}-{found['writes']}")


def _fill(target: Path, words: str) -> None:
    with atomic_folder(target) as beside:
        for name in FILES:
            (beside / name).write_text(words)


def _open(target: Path, number: int, found: Counter[str]) -> None:
    try:
        (target / FILES[0]).read_text()
        seen = {(target / name).read_text() for name in FILES}
        found["unguarded"] += len(seen) > 1
    except FileNotFoundError:
        found["missing"] += 1
    found["opens"] += 1


def _read(target: Path, number: int, found: Counter[str]) -> None:
    try:
        seen = read_folder(target, lambda place: {(place / n).read_text() for n in FILES})
        found["mixed"] += len(seen) > 1
    except FileNotFoundError:
        found["unread"] += 1
    found["reads"] += 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--moves", action="store_true", help="as without an exchange of names")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/folders.json"))
    given = options.parse_args()
    from unspoken.evaluation.result import about_machine

    with tempfile.TemporaryDirectory(dir=".") as home:
        found = contend(Path(home), given.seconds, moves=given.moves)
    result = {"benchmark": "folders", "seconds": given.seconds, "exchange": not given.moves}
    result |= {"found": found, **about_machine()}
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
