"""What each channel's message is worth and costs, on tasks and protocols: one table.

    python benchmarks/free.py --limit 100
    python benchmarks/free.py --limit 8 --tasks qasc --protocols private --out /tmp/free.json

Runs the recipe `free` for each pair of task and protocol, in one process, and writes a JSON and the
same as Markdown beside it. What stands in `--work` from an earlier run is not run again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unspoken.evaluation.result import about_machine
from unspoken.recipe import RelayRecipe, load_recipe
from unspoken.studies.comparison import ComparisonSettings, Report, run_comparison


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--limit", type=int, default=100)
    options.add_argument("--tasks", nargs="+", default=["qasc"])
    options.add_argument("--protocols", nargs="+", default=["private", "shared"])
    options.add_argument("--work", type=Path, default=Path("out/free"))
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/free.json"))
    options.add_argument("settings", nargs="*", help="settings of the recipe as key=value")
    given = options.parse_args()
    reports = [
        run(task, protocol, given.limit, given.work, given.settings)
        for task in given.tasks
        for protocol in given.protocols
    ]
    rows = [row for report in reports for row in rows_of(report)]
    result = {
        "benchmark": "free",
        "items": given.limit,
        "seed": reports[0].seed,
        "tasks": [report.task for report in reports],
        "rows": rows,
        "models": reports[0].models,
        **about_machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    table = markdown(rows)
    given.out.with_suffix(".md").write_text(table)
    print(table)


def run(task: str, protocol: str, limit: int, work: Path, settings: list[str]) -> Report:
    recipe = load_recipe(
        "free",
        [
            f"task.name={task}",
            f"task.protocol={protocol}",
            f"comparison.limit={limit}",
            f"out={work / f'{task}-{protocol}'}",
            f"trained={work / 'trained'}",
            *settings,
        ],
    )
    assert isinstance(recipe, RelayRecipe)
    return run_comparison(recipe, ComparisonSettings())


def rows_of(report: Report) -> list[dict[str, Any]]:
    """A row for each channel: costs are means per item over both agents."""
    rows: list[dict[str, Any]] = []
    for name in report.channels:
        worth, arm = report.worth(name), report.arm(name, "matched")
        rows.append(
            {
                "task": report.task["name"],
                "protocol": report.task["protocol"],
                "channel": name,
                "n": arm.n,
                "matched": arm.accuracy,
                "gain": asdict(worth.gain),
                "content": asdict(worth.content),
                "verdict": worth.verdict,
                "bytes": arm.wire_bytes,
                "tokens_read": arm.tokens_read,
                "tokens_written": arm.tokens_written,
                "passes": arm.passes,
                "seconds": arm.seconds,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    head = (
        "| task | channel | matched % | gain, points | content, points | bytes | "
        "tokens read / written | s | verdict |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row['task']}, {row['protocol']} | {row['channel']} | {100 * row['matched']:.0f} | "
        f"{points(row['gain'])} | {points(row['content'])} | {row['bytes']:,.0f} | "
        f"{row['tokens_read']:.0f} / {row['tokens_written']:.1f} | {row['seconds']:.2f} | "
        f"{row['verdict']} |\n"
        for row in rows
    )


def points(found: dict[str, float]) -> str:
    return f"{100 * found['value']:+.0f} [{100 * found['low']:+.0f}, {100 * found['high']:+.0f}]"


if __name__ == "__main__":
    main()
