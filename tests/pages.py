"""A folder of results to make pages of: committed ones, with answers, bits and rates made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unspoken.evaluation.arm import Arm
from unspoken.evaluation.bits import Information
from unspoken.evaluation.statistics import Estimate, Interval, wilson
from unspoken.files import write_text
from unspoken.page import Grid, Tile
from unspoken.studies.information import InformationReport
from unspoken.studies.rate import Fit, Point, RateReport

__all__ = ["ATTACK", "N", "folder_of_results", "told", "usable_bits"]

N = 100
ATTACK = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
_HOME = Path(__file__).parent.parent
_RESULTS = _HOME / "benchmarks" / "results"
_TASK = {"name": "qasc", "protocol": "private", "split": "test", "items": 32, "files": {}}
_MODELS = [{"name": "sharer", "fingerprint": "0a"}, {"name": "receiver", "fingerprint": "0b"}]


def folder_of_results(home: Path, *, committed: str = "relay-qasc", more: bool = True) -> Path:
    """A committed comparison, with made-up answers of the same accuracies; `more`: all the others.

    One answer, one question and one channel's words are an attack on the page.
    """
    out = home / "out"
    results = json.loads((_RESULTS / f"{committed}.json").read_text(encoding="utf-8"))
    results["notes"]["recipe"] = {"kind": "relay"}
    write_text(out / "results.json", json.dumps(results))
    for place, arm in enumerate(results["arms"]):
        write_text(
            out / "predictions" / f"{arm['channel']}-{arm['condition']}.jsonl",
            "".join(json.dumps(_answer(n, place, arm)) + "\n" for n in range(arm["n"])),
        )
    if more:
        usable_bits().save(out)
        report = _rate()
        write_text(out / "rate.json", json.dumps(report.to_dict()))
        _gates().write(out / "gates.json")
        for name in ("plan", "telephone", "edges"):
            results = json.loads((_RESULTS / f"{name}-qasc.json").read_text(encoding="utf-8"))
            results["notes"]["recipe"] = {"kind": name}
            write_text(out / f"{name}.json", json.dumps(results))
    return out


def _answer(n: int, place: int, arm: dict[str, Any]) -> dict[str, Any]:
    right = (n * 37 + place) % arm["n"] < round(arm["accuracy"] * arm["n"])
    spent = {"read": 100 + n, "written": 3, "passes": 4, "wire": 50, "seconds": 0.25}
    none = {**spent, "wire": 0}
    return {
        "id": f"q{n}",
        "question": f"What is number {n}? {ATTACK if n == 4 else ''}",
        "answers": [f"the number {n}", str(n)],
        "prediction": str(n) if right else ATTACK if place % 3 == 1 else "another number",
        "correct": right,
        "messages": {"sender": f"it is {n} {ATTACK}"} if arm["channel"] == "text" else {},
        "message_of": f"q{n}",
        "usage": spent,
        "costs": {"sender": spent, "receiver": none} if arm["condition"] == "matched" else {},
    }


def _about(seed: int) -> dict[str, Any]:
    return {
        "models": _MODELS,
        "task": _TASK,
        "seed": seed,
        "versions": {"python": "3.11"},
        "machine": {"cores": 2, "gpu": None, "date": "2026-11-25"},
        "notes": {"recipe": {"kind": "relay"}},
    }


def _information(name: str, value: float) -> Information:
    return Information(
        channel=name,
        n=32,
        ceiling=5.0,
        bits=Estimate(value, value - 0.4, value + 0.3),
        deranged=Estimate(-value, -value - 0.8, -value + 0.8),
        pvi=Estimate(value + 1, value + 0.5, value + 1.5),
        identified=0.5,
        identified_ci=Interval(0.34, 0.66),
        positions=16.5,
        wire=1024.0,
        seconds=3.0,
        items=(),
    )


def usable_bits() -> InformationReport:
    names = ("full-text", "text", "embedding", "embedding, constant")
    found = tuple(_information(name, 4.2 - n * 1.4) for n, name in enumerate(names))
    return InformationReport(found, None, **_about(0))


def _rate() -> RateReport:
    points: list[Point] = []
    for number, curve in enumerate(("text, tuned reader", "embedding")):
        for step in range(5):
            wrong = (28 - 5 * step + 2 * number) / 32
            ends = wilson(28 - 5 * step + 2 * number, 32)
            points.append(
                Point(
                    curve,
                    f"{2**step} tokens",
                    float(2**step),
                    90.0 * 2**step * (1 + 9 * number),
                    Estimate(step * 1.1, step * 1.1 - 0.2, step * 1.1 + 0.2),
                    wrong,
                    ends,
                )
            )
    alone = Arm("no message", "none", 32, 1 / 32, 0.0, 0.15, 100, 3, 4, 0, 0.1)
    fits = {"embedding": Fit(0.9, 0.6, 0.1, 0.02)}
    return RateReport(tuple(points), fits, alone, 5.0, **_about(0))


def _gates() -> Grid:
    rows = tuple(
        (side, tuple(Tile(n / 11, n > 5) for n in places))
        for side, places in (("keys", range(12)), ("values", range(11, -1, -1)))
    )
    columns = tuple((str(n), str(2 * n)) for n in range(12))
    return Grid(columns, rows, "layers", "open", "shut", "Gates.", "12 of 24 gates open")


def told(out: Path) -> dict[str, Any]:
    """The comparison of a folder, as its file has it."""
    return json.loads((out / "results.json").read_text(encoding="utf-8"))
