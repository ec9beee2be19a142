"""The telephone game as a table, JSON, Markdown and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.arm import Arm
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Difference, Estimate, Interval, Share
from unspoken.files import write_text

__all__ = ["Hop", "TelephoneReport"]


@dataclass(frozen=True)
class Hop:
    """What the message of a hop does to its receiver; n items.

    matched: answers after the right message. deranged: after another item's message, which went as
    many hops (a mismatched message). content: their difference. bits: log2 p(answer) after the
    right message; drift: by how much it has changed since hop 1. kept, kept_ci: the share of
    answers that are as at hop 1. words: the share of the fact's words that the sender of this
    hop still read.
    """

    hop: int
    matched: Arm
    deranged: Arm
    content: Difference
    bits: Estimate
    drift: Estimate
    kept: Share
    kept_ci: Interval
    words: Share


@dataclass(frozen=True, repr=False)
class TelephoneReport(Result):
    """Hops by channel; alone: without a message. told: for some items, what each sender read."""

    channels: Mapping[str, tuple[Hop, ...]]
    alone: Arm
    told: Mapping[str, tuple[tuple[str, ...], ...]]

    @property
    def hops(self) -> int:
        return max(len(hops) for hops in self.channels.values())

    def to_dict(self) -> dict[str, Any]:
        """The content of telephone.json."""
        return asdict(self)

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table, hop by hop."""
        for name, hops in self.channels.items():
            for one in hops:
                content = one.content
                yield [
                    name,
                    str(one.hop),
                    f"{_percent(one.matched.accuracy)} ({_ends(one.matched)})",
                    _percent(one.deranged.accuracy),
                    f"{100 * content.value:+.0f} [{100 * content.low:+.0f}, "
                    f"{100 * content.high:+.0f}]",
                    f"{one.bits.value:.1f}",
                    f"{one.drift:+.1f}",
                    f"{_percent(one.kept)} ({_percent(one.kept_ci.low)}-"
                    f"{_percent(one.kept_ci.high)})",
                    _percent(one.words),
                ]

    def table(self) -> Table:
        """The table for a terminal of 80 columns: without bits, words and the interval of kept."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
        table.add_column("channel", min_width=12)
        for name in (*_COLUMNS[1:5], _COLUMNS[6], "% kept"):
            table.add_column(name.replace(" (", "\n("), justify="right", no_wrap=True)
        previous = ""
        for channel, *cells in self.rows():
            kept = cells[6].partition(" ")[0]
            table.add_row("" if channel == previous else channel, *cells[:4], cells[5], kept)
            previous = channel
        return table

    def findings(self) -> list[str]:
        """What is left at the last hop, channel by channel."""
        lines = [f"without a message {_percent(self.alone.accuracy)} % are right"]
        for name, hops in self.channels.items():
            last = hops[-1]
            sure = last.content.low > 0
            lines.append(
                f"{name}: {_percent(hops[0].matched.accuracy)} % right after 1 hop, "
                f"{_percent(last.matched.accuracy)} % after {last.hop}"
                + ("" if sure else "; no content shown by then")
            )
        return lines

    def markdown(self) -> str:
        read = "".join(
            f"\n{name}\n\n" + "".join(f"* {' → '.join(words)}\n" for words in chains)
            for name, chains in self.told.items()
        )
        return (
            f"# Telephone: {self.task['name']}, {self.task['protocol']} protocol\n\n"
            f"{self.stated}\n\n{markdown_table(_COLUMNS, self.rows())}\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + f"\n![accuracy and drift by hop](telephone.svg)\n\n{_NOTES}\n\n"
            f"## What senders read, hop by hop\n{read}"
        )

    def save(self, out: str | Path) -> None:
        """Write telephone.json and telephone.md, each whole or not at all."""
        write_result(Path(out, "telephone.json"), self.to_dict())
        write_text(Path(out, "telephone.md"), self.markdown())


_COLUMNS = (
    "channel",
    "hop",
    "% right (95 %)",
    "deranged",
    "content (95 %)",
    "bits",
    "drift (95 %)",
    "% kept (95 %)",
    "% words",
)
_NOTES = (
    "A hop: a sender reads words and sends its message over the channel. A receiver that sees the "
    "message alone restates it in words, which the next sender reads in the place of the fact. So "
    "every hop restates once, and what full-text loses, restating loses. Text restates twice, "
    "because its sender writes a note. deranged: after another item's message of the same hop (a "
    "mismatched message); content: matched - deranged, paired, in points. bits: log2 p(right "
    "answer) after the message; drift: "
    "its change since hop 1. kept: answers that are as at hop 1. words: words of the fact that the "
    "sender of the hop still read. Intervals: Wilson for shares, Newcombe for content, percentile "
    "bootstrap over items for bits."
)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _ends(arm: Arm) -> str:
    return f"{_percent(arm.ci_low)}-{_percent(arm.ci_high)}"
