"""Draw the pictures of docs/ from committed results.

python -m benchmarks.pictures
python -m benchmarks.pictures --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from unspoken.kept import opened
from unspoken.page import Bars, Chart, Graph, Lines, write_picture
from unspoken.recipe.registry import study as find_study

HOME = Path(__file__).resolve().parents[1]
PICTURES: Mapping[str, str] = {
    "edges-qasc": "edges",
    "fronts-paragraphs": "fronts",
    "fusion-cities": "comparison",
    "graph-qasc": "edges",
    "memory-words-0": "comparison",
    "plan-qasc": "teams",
    "planner-qasc": "comparison",
    "rate-qasc": "rate",
    "relay-qasc": "comparison",
    "telephone-qasc": "telephone",
}
"""The study of each result; its picture has the result's name."""


def chart_of(name: str) -> tuple[Chart, str]:
    """The first chart of a result that fits on paper, and its title."""
    study = find_study(PICTURES[name])
    path = HOME / "benchmarks" / "results" / f"{name}.json"
    report = study.read(opened(json.loads(path.read_text(encoding="utf-8")), path))
    parts = (part for section in study.sections(report, path.parent) for part in section.parts)
    chart = next(part for part in parts if isinstance(part, Bars | Lines | Graph))
    return chart, f"{report.title}: {study.title[0].lower()}{study.title[1:]}"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path, default=HOME / "docs")
    out: Path = options.parse_args().out
    for name in PICTURES:
        chart, title = chart_of(name)
        write_picture(chart, out / f"{name}.svg", title)
        print(out / f"{name}.svg")


if __name__ == "__main__":
    main()
