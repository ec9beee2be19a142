"""What a comparison found: arms, gains and contents, as a table, JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.arm import Arm, notes
from unspoken.evaluation.bits import Information
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Difference, difference
from unspoken.files import write_text

__all__ = ["ChannelWorth", "Compared", "Report"]


@dataclass(frozen=True)
class ChannelWorth:
    """What a channel's message was worth: gain = matched - none, content = matched - deranged.

    over_constant = matched - constant, where vectors without a sender were trained; over_lora =
    matched - lora, where the receiver itself was.
    """

    gain: Difference
    content: Difference
    over_constant: Difference | None
    over_lora: Difference | None

    @property
    def verdict(self) -> str:
        """In words, by the 95 % intervals."""
        if self.content.low > 0:
            return "content"
        if self.gain.low > 0:
            return "presence only, no content shown"
        return "harm" if self.gain.high < 0 else "no gain shown"


@dataclass(frozen=True, repr=False)
class Report(Result):
    """A comparison: its arms, and everything needed to know what was compared.

    information: by channel the usable bits of its messages, where they were measured.
    """

    arms: tuple[Arm, ...]
    information: Mapping[str, Information] = field(default_factory=dict[str, Information])

    def __repr__(self) -> str:
        right = (
            f"{name} {100 * self.arm(name, 'matched').accuracy:.1f} %" for name in self.channels
        )
        return f"<Report {self.title}: {', '.join(right)} right>"

    @property
    def channels(self) -> list[str]:
        return list(dict.fromkeys(arm.channel for arm in self.arms))

    def arm(self, channel: str, condition: str) -> Arm:
        """One arm. Raises `KeyError` if it was not run."""
        for arm in self.arms:
            if (arm.channel, arm.condition) == (channel, condition):
                return arm
        raise KeyError(f"no arm {condition!r} of channel {channel!r}")

    def worth(self, channel: str) -> ChannelWorth:
        """Gain and content of a channel, paired over items, exact McNemar p-values."""
        arms = {arm.condition: arm.correct for arm in self.arms if arm.channel == channel}
        matched = arms["matched"]

        def over(condition: str) -> Difference | None:
            return difference(matched, arms[condition]) if condition in arms else None

        return ChannelWorth(
            gain=difference(matched, arms["none"]),
            content=difference(matched, arms["deranged"]),
            over_constant=over("constant"),
            over_lora=over("lora"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json. Predictions per item are in files beside it."""
        arms = [{k: v for k, v in asdict(arm).items() if k != "correct"} for arm in self.arms]
        worths = {name: self.worth(name) for name in self.channels}
        return {
            "models": self.models,
            "task": self.task,
            "seed": self.seed,
            "versions": self.versions,
            "machine": self.machine,
            "code": self.code,
            "notes": self.notes,
            "arms": arms,
            "channels": {
                name: {**asdict(worth), "verdict": worth.verdict} for name, worth in worths.items()
            },
            "information": {name: asdict(found) for name, found in self.information.items()},
        }

    def save(self, out: str | Path) -> None:
        """Write results.json and report.md, each whole or not at all."""
        write_result(Path(out, "results.json"), self.to_dict())
        write_text(Path(out, "report.md"), self.markdown())

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return (*_COLUMNS, "bits") if self.information else _COLUMNS

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table, arm by arm."""
        for arm in self.arms:
            cells = [
                arm.channel,
                arm.condition,
                f"{100 * arm.accuracy:.1f} ({100 * arm.ci_low:.0f}-{100 * arm.ci_high:.0f})",
                f"{arm.tokens_read:.0f}",
                f"{arm.tokens_written:.1f}",
                f"{arm.wire_bytes:,.0f}",
                f"{arm.seconds:.2f}",
            ]
            yield [*cells, self._bits(arm)] if self.information else cells

    def _bits(self, arm: Arm) -> str:
        """Usable bits of log2 N, where an arm receives messages whose bits were measured."""
        found = self.information.get(arm.channel)
        if found is None or arm.condition not in ("matched", "deranged"):
            return ""
        bits = found.bits if arm.condition == "matched" else found.deranged
        return f"{bits.value:.2f} of {found.ceiling:.2f}"

    def table(self) -> Table:
        """The table for a terminal."""
        table = Table(
            title=self.title,
            caption=notes(self.arms) or None,
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
            pad_edge=False,
        )
        for number, name in enumerate(self.columns):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number > 0)
        previous = ""
        for channel, *cells in self.rows():
            if previous and channel != previous:
                table.add_section()
            table.add_row("" if channel == previous else channel, *cells)
            previous = channel
        return table

    def findings(self) -> list[str]:
        """A sentence for each channel: gain, content, verdict."""
        return [f"{name}: {_sentence(self.worth(name))}" for name in self.channels]

    def markdown(self) -> str:
        bits = "".join(
            f" bits: usable information of the messages about {n} of the items, at most log2 {n}."
            for n in sorted({found.n for found in self.information.values()})
        )
        overlap, note = self.task["overlap"], notes(self.arms)
        return (
            f"# {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.stated} Facts shared between splits: {overlap['facts']}, questions: "
            f"{overlap['questions']}; {overlap['dropped']} items were dropped for that."
            f"\n\n{markdown_table(self.columns, self.rows())}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + "\n![accuracy by channel and condition](report.svg)\n\n"
            "gain = matched - none; content = matched - deranged (a mismatched message, that of "
            "another item), both paired over the same items: 95 % interval, exact McNemar p. "
            "Accuracies with Wilson intervals in percent. Costs are means per item over all "
            f"agents.{note and f' {note}'}{bits}\n"
        )


@dataclass(frozen=True, repr=False)
class Compared(Result):
    """A comparison read back from results.json, which does not say which items are right."""

    arms: tuple[Arm, ...]
    channels: dict[str, ChannelWorth]
    information: dict[str, Information] = field(default_factory=dict[str, Information])


_COLUMNS = ("channel", "condition", "% right (95 %)", "read", "written", "bytes", "sec")


def _sentence(worth: ChannelWorth) -> str:
    parts = [f"gain {_points(worth.gain)}", f"content {_points(worth.content)}"]
    if worth.over_constant is not None:
        parts.append(f"above constant {_points(worth.over_constant)}")
    if worth.over_lora is not None:
        parts.append(f"above lora {_points(worth.over_lora)}")
    return f"{', '.join(parts)}: {worth.verdict}"


def _points(found: Difference) -> str:
    return (
        f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}] "
        f"(p = {found.p:.2g})"
    )
