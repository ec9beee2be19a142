"""`python -m tests.zoo [NAMES...] [--cells a,b] [--page FILE]`: every family in every cell."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import torch
from transformers.utils import logging

from .cells import CELLS
from .judge import VERDICTS, Found, judge
from .models import MORE, NAMES, NOT_BUILT
from .page import page

BUILT = [name for name in (*NAMES, *MORE) if name not in NOT_BUILT]
Table = Mapping[str, Mapping[str, Found]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", default=BUILT, help="families; all by default")
    parser.add_argument("--cells", help="some cells, with commas between them")
    parser.add_argument("--json", type=Path, help="a file for all verdicts")
    parser.add_argument("--page", type=Path, help="write docs/models.md")
    given = parser.parse_args()
    cells = given.cells.split(",") if given.cells else list(CELLS)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    table: dict[str, dict[str, Found]] = {}
    for n, name in enumerate(given.names, 1):
        start = perf_counter()
        table[name] = judge(name, cells)
        marks = "".join(VERDICTS[found.verdict] for found in table[name].values())
        seconds = perf_counter() - start
        print(f"{n:3}/{len(given.names)} {name:28} {marks} {seconds:5.1f} s", flush=True)
        if given.json:
            rows = {row: {c: asdict(f) for c, f in found.items()} for row, found in table.items()}
            given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if given.page:
        given.page.write_text(page(table), encoding="utf-8")
    show(table, cells)


def show(table: Table, cells: Sequence[str]) -> None:
    """Print a row for each family, a column for each cell, and totals."""
    wide = max(map(len, table), default=0)
    print("\n" + ", ".join(f"{mark!r} {verdict}" for verdict, mark in VERDICTS.items()))
    for n, cell in enumerate(cells):
        print(f"{'':{wide}} {'| ' * n}{cell}")
    for name, found in table.items():
        print(f"{name:{wide}} {' '.join(VERDICTS[one.verdict] for one in found.values())}")
    print(f"\n{'':16}" + "".join(f"{verdict:>13}" for verdict in VERDICTS))
    for cell in cells:
        count = Counter(found[cell].verdict for found in table.values())
        print(f"{cell:16}" + "".join(f"{count[verdict]:13}" for verdict in VERDICTS))


if __name__ == "__main__":
    main()
