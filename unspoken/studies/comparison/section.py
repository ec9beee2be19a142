"""What a page shows of a comparison: gains and contents, accuracies, costs, and disagreements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from unspoken.evaluation.arm import Arm
from unspoken.evaluation.statistics import Difference
from unspoken.page import (
    Bars,
    Cell,
    Colour,
    Forest,
    Grid,
    Heading,
    Mark,
    Part,
    Row,
    Section,
    Table,
    arm_table,
    bits_section,
    percent,
)
from unspoken.studies.comparison.examples import disagreements, predictions
from unspoken.studies.comparison.report import ChannelWorth, Compared

__all__ = ["chart", "sections", "summary"]


def summary(report: Compared) -> str:
    """The channel with the most right answers, how many carried content, what the others did."""
    matched = (arm for arm in report.arms if arm.condition == "matched")
    best = max(matched, key=lambda arm: arm.accuracy)
    content = report.channels[best.channel].content
    low, high = 100 * content.low, 100 * content.high
    by_verdict: dict[str, list[str]] = {}
    for name, worth in report.channels.items():
        by_verdict.setdefault(worth.verdict, []).append(name)
    carried = len(by_verdict.pop("content", ()))
    rest = [f" {verdict.capitalize()}: {_and(names)}." for verdict, names in by_verdict.items()]
    return (
        f"{_and([best.channel])} has the most right answers, {100 * best.accuracy:.0f} %, and its "
        f"content is {100 * content.value:+.0f} points [{low:+.0f}, {high:+.0f}]; {carried} of "
        f"{len(report.channels)} channels show content.{''.join(rest)}"
    )


def _and(names: Sequence[str]) -> str:
    """Names that may hold commas, so that they can be told apart."""
    return ", ".join(f"“{name}”" for name in names)


def sections(report: Compared, folder: Path) -> Iterator[Section]:
    yield Section("worth", "Gain and content", (_WORTH, _differences(report.channels)))
    yield Section("accuracy", "Accuracy and cost", tuple(_accuracy(report, folder)))
    if report.information:
        yield bits_section(tuple(report.information.values()))
    gates = Grid.read(folder / str(report.notes.get("projector_folder", "")) / "gates.json")
    if gates is not None:
        yield Section("gates", "Gates of the fuser", (gates,), last=True)
    found = disagreements(report, folder)
    if found is not None:
        yield Section("examples", "Where channels disagree", found, last=True)


_WORTH = (
    "**Gain** is the right message against none. **Content** is the right message against another "
    "item’s of similar length (deranged, a mismatched message). A gain without content shows only "
    "that a message was there. **Above constant** compares with trained vectors and no sender, "
    "**above lora** with a receiver that was trained itself and receives no message."
)

_TONES: dict[str, Colour] = {
    "content": "green",
    "presence only, no content shown": "amber",
    "harm": "red",
}


def _differences(channels: Mapping[str, ChannelWorth]) -> Forest:
    """Gain, content and the differences from trained controls, in points, with a line at zero."""
    rows = (
        Row(name, tuple(_marks(worth)), worth.verdict, _TONES.get(worth.verdict, "grey"))
        for name, worth in channels.items()
    )
    return Forest(
        tuple(rows),
        "points",
        "Percentage points, paired over the same items: 95 % intervals (Newcombe), exact McNemar p",
        guides=(0.0,),
        signed=True,
    )


def _marks(worth: ChannelWorth) -> Iterator[Mark]:
    found: tuple[tuple[str, Colour, Difference | None], ...] = (
        ("gain", "blue", worth.gain),
        ("content", "green", worth.content),
        ("above constant", "slate", worth.over_constant),
        ("above lora", "mauve", worth.over_lora),
    )
    for name, colour, one in found:
        if one is not None:
            value, low, high = 100 * one.value, 100 * one.low, 100 * one.high
            text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            yield Mark(name, colour, value, low, high, text, f"p = {one.p:.2g}")


_CONDITIONS: dict[str, Colour] = {
    "none": "grey",
    "matched": "blue",
    "deranged": "orange",
    "constant": "slate",
    "lora": "mauve",
}


def chart(arms: Sequence[Arm]) -> Bars:
    """Right answers in percent, condition by condition."""
    names = dict.fromkeys(arm.channel for arm in arms)
    rows = (Row(name, tuple(_right(arm) for arm in arms if arm.channel == name)) for name in names)
    return Bars(tuple(rows), "% right", "Right answers in percent, with 95 % Wilson intervals")


def _right(arm: Arm) -> Mark:
    return Mark(
        arm.condition,
        _CONDITIONS.get(arm.condition, "grey"),
        100 * arm.accuracy,
        100 * arm.ci_low,
        100 * arm.ci_high,
        percent(arm.accuracy, arm.ci_low, arm.ci_high),
    )


def _accuracy(report: Compared, folder: Path) -> Iterator[Part]:
    yield chart(report.arms)
    yield arm_table(report.arms)
    costs = _costs(report, folder)
    if costs is not None:
        yield Heading("What each side pays")
        yield costs


def _costs(report: Compared, folder: Path) -> Table | None:
    """What each agent spends on an item with the right message; None if that was not recorded."""
    rows: list[tuple[Cell, ...]] = []
    for arm in report.arms:
        if arm.condition == "matched":
            rows += _spent(arm, [row.get("costs", {}) for row in predictions(folder, arm)])
    head = ("channel", "agent", "tokens read", "written", "passes", "bytes sent", "seconds")
    caption = "Means for each item, with the right message"
    return Table(caption, head, tuple(rows)) if rows else None


def _spent(arm: Arm, costs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Cell, ...]]:
    for agent in costs[0] if costs and all(costs) else ():
        read, written, passes, wire, seconds = (
            fmean(float(one[agent][name]) for one in costs)
            for name in ("read", "written", "passes", "wire", "seconds")
        )
        yield (
            Cell.word(arm.channel),
            Cell.word(agent),
            Cell.of(read, ",.0f"),
            Cell.of(written, ",.1f"),
            Cell.of(passes, ",.1f"),
            Cell.of(wire, ",.0f"),
            Cell.of(seconds, ".2f"),
        )
