"""Damage to everything that is kept on disk: refused, made anew or without meaning, never silent.

    python -m benchmarks.damage --mutations 2000 --seed 0

Every kind of thing is made with tiny models. A file of it is changed, and the thing is used: it is
loaded and asked. `same`: the result is that of the undamaged one. `refused`: an error of ours.
`rebuilt`: the same result, after a warning that it was made anew. `told`: another result, with a
warning. `silent`: another result and no word. `raw`: any other exception, which is named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import track

from benchmarks.kept_things import THINGS, Thing
from unspoken import kept
from unspoken.errors import UnspokenError

Change = Callable[[Path, bytes, Random], object]


def flip(path: Path, other: bytes, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    _write(path, bytes(data))


def cut(path: Path, other: bytes, rng: Random) -> None:
    data = path.read_bytes()
    _write(path, data[: rng.randrange(len(data))] if data else b"")


def grow(path: Path, other: bytes, rng: Random) -> None:
    _write(path, path.read_bytes() + rng.choice((b"\0", b"{", rng.randbytes(40))))


def zero(path: Path, other: bytes, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data)) if data else 0
    size = min(rng.choice((1, 16, 256, 4096)), len(data) - start)
    data[start : start + size] = bytes(size)
    _write(path, bytes(data))


def swap(path: Path, other: bytes, rng: Random) -> None:
    _write(path, other)


def remove(path: Path, other: bytes, rng: Random) -> None:
    path.unlink()


def replace_by_folder(path: Path, other: bytes, rng: Random) -> None:
    path.unlink()
    path.mkdir()


def version(path: Path, other: bytes, rng: Random) -> None:
    """Another number of the format, wherever one stands; elsewhere a whole other format."""
    data = path.read_bytes()
    for old in (b'"version": 1', b'\\"version\\": 1', b'"layout": 3'):
        if old in data:
            return _write(path, data.replace(old, old[:-1] + b"9"))
    return _write(path, rng.choice((b"PK\x03\x04 of another format", b"{}", b"[]", b"")))


def shape(path: Path, other: bytes, rng: Random) -> None:
    """Other tensors under a digest that is theirs, as of a program that errs; or deep JSON."""
    if path.suffix not in (".safetensors", ".pt") or b'"unspoken"' not in path.read_bytes():
        return _write(path, b"[" * 100_000)
    about, tensors = _opened(path)
    name = rng.choice(sorted(tensors))
    one = tensors[name]
    match rng.randrange(4):
        case 0 if one.ndim and len(one):
            tensors[name] = one[1:].clone()
        case 1:
            del tensors[name]
        case 2:
            tensors["more"] = torch.zeros(2)
        case _:
            tensors[name] = torch.full(one.shape or (2,), torch.nan)
    kept.save(path, about["kind"], about["content"], tensors)
    return None


def edit(path: Path, other: bytes, rng: Random) -> None:
    """A value, a key or white space of JSON, in safetensors the JSON of the header."""
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        at = [n for n in range(min(len(data), 4000)) if chr(data[n]).isdigit()]
        if at:
            place = rng.choice(at)
            data = data[:place] + str(rng.randrange(10)).encode() + data[place + 1 :]
        return _write(path, data)
    lines = data.split(b"\n") if path.suffix == ".jsonl" else [data]
    row = rng.randrange(max(1, len(lines) - 1))
    content = json.loads(lines[row])
    _edited(content, rng)
    lines[row] = json.dumps(content, indent=rng.choice((None, None, 3)) if len(lines) < 2 else None)
    lines[row] = lines[row].encode()
    return _write(path, b"\n".join(lines))


CHANGES: dict[str, Change] = {
    "flip": flip,
    "cut": cut,
    "grow": grow,
    "zero": zero,
    "swap": swap,
    "remove": remove,
    "folder": replace_by_folder,
    "version": version,
    "shape": shape,
    "edit": edit,
}


def _edited(content: Any, rng: Random) -> None:
    """Change something somewhere in JSON."""
    inner = [one for one in _parts(content) if isinstance(one, dict | list) and one]
    if not inner:
        return
    place = rng.choice(inner)
    key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    match rng.randrange(5):
        case 0:
            place[key] = rng.choice((0, -1, 7, 1e300, 2**40, float("nan"), None, "", "x", [], {}))
        case 1:
            del place[key]
        case 2 if isinstance(place, dict):
            place["another"] = place[key]
        case 3 if isinstance(place, dict):
            place[f"{key}s"] = place.pop(key)
        case _ if isinstance(place[key], int | float):
            place[key] = place[key] + rng.choice((1, -1, 0, 0.5))
        case _:
            pass


def _parts(content: Any) -> list[Any]:
    inner = content.values() if isinstance(content, dict) else content
    found = [content]
    for one in inner if isinstance(content, dict | list) else ():
        found += _parts(one)
    return found


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a file says of itself, and its tensors."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["unspoken"])
    found = kept.load(path, about["kind"])
    return about, {name: one.clone() for name, one in found.tensors.items()}


def _write(path: Path, data: bytes) -> None:
    path.unlink()  # a new file: pages of the old one may be in use
    path.write_bytes(data)


# -- what becomes of it ----------------------------------------------------------------------------


def outcome(thing: Thing, folder: Path, wanted: Any) -> str:
    """What using a damaged thing comes to, in a word."""
    with warnings.catch_warnings(record=True) as told, redirect_stderr(StringIO()):
        warnings.simplefilter("always")
        try:
            found = thing.use(folder)
        except UnspokenError:
            return "refused"
        except Exception as error:
            return f"raw {type(error).__name__}: {str(error)[:90]}"
    said = [str(one.message) for one in told if one.category is UserWarning]
    if found == wanted:
        return "rebuilt" if any("made anew" in words for words in said) else "same"
    return "told" if said else "silent"


def attack(
    thing: Thing, mutations: int, seed: int, home: Path, *, examples: list[str] | None = None
) -> dict[str, dict[str, int]]:
    """Counts by change and outcome. examples: takes up what must not be."""
    first, second = home / thing.name / "first", home / thing.name / "second"
    thing.make(first, 0)
    thing.make(second, 1)
    wanted = thing.use(shutil.copytree(first, home / thing.name / "whole"))
    files = [path.relative_to(first) for path in sorted(first.rglob("*")) if thing.counts(path)]
    others = [path.read_bytes() for path in sorted(second.rglob("*")) if thing.counts(path)]
    counts: dict[str, Counter[str]] = {name: Counter() for name in CHANGES}
    for n in track(range(mutations), f"{thing.name:12}", transient=True):
        rng = Random(seed * 1_000_003 + n)
        name, place = list(CHANGES)[n % len(CHANGES)], rng.randrange(len(files))
        folder = shutil.copytree(first, home / thing.name / f"{n}")
        CHANGES[name](folder / files[place], others[place % len(others)], rng)
        end = outcome(thing, folder, wanted)
        counts[name][end.split()[0]] += 1
        if end.split()[0] in ("silent", "raw") and examples is not None:
            examples.append(f"{thing.name}, {files[place]}, {name}, seed {seed}, {n}: {end}")
        shutil.rmtree(folder)
    return {name: dict(sorted(found.items())) for name, found in counts.items()}


def table(outcomes: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """The counts by thing and change, in Markdown: outcomes, most first."""
    from unspoken.evaluation.result import markdown_table

    def cell(found: Mapping[str, int]) -> str:
        return ", ".join(f"{count} {end}" for end, count in sorted(found.items()))

    rows = [[name, *map(cell, found.values())] for name, found in outcomes.items()]
    return markdown_table(["", *CHANGES], rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--mutations", type=int, default=2000, help="of all things together")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", choices=[thing.name for thing in THINGS])
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/damage.json"))
    given = options.parse_args()
    from unspoken.evaluation.result import about_machine

    torch.set_num_threads(1)
    bad: list[str] = []
    chosen = [thing for thing in THINGS if given.only in (None, thing.name)]
    each = -(-given.mutations // len(chosen))
    with tempfile.TemporaryDirectory() as home:
        outcomes = {
            thing.name: attack(thing, each, given.seed, Path(home), examples=bad)
            for thing in chosen
        }
    total: Counter[str] = Counter()
    for found in outcomes.values():
        for counts in found.values():
            total.update(counts)
    result = {
        "benchmark": "damage",
        "mutations": each * len(chosen),
        "seed": given.seed,
        "total": dict(sorted(total.items())),
        "bad": bad,
        "outcomes": outcomes,
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(outcomes))
    print(json.dumps(result["total"]))
    print("\n".join(bad))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
