"""Which channel pays: accuracy against time on two clocks, against bytes, against tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.table import Table

from unspoken.evaluation.arm import Arm, notes
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Amount, Difference
from unspoken.files import write_text
from unspoken.studies.fronts.clock import CLOCKS, Clock, ClockName

__all__ = ["Channelled", "FrontsReport", "Kind", "front"]

Kind = Literal["verbatim", "words", "latent"]
"""What travels: the whole text, fewer words, or vectors and caches."""

_LEVEL = 0.02
"""By how much a faster text arm may be better than a channel that is on the front."""
_LOSS = -0.03
"""The loss of accuracy that the interval of a halved time has to exclude."""


@dataclass(frozen=True)
class Channelled:
    """One arm: a channel and a reader, its controls, its costs and its clock.

    asked: whether the sender knows the question. none, deranged, constant: answers without a
    message, after another item's, after free vectors. Tokens are means for an item and count the
    instructions. content: matched - deranged. against: this arm - the most accurate arm that reads
    the text word for word, on the same items.
    """

    name: str
    kind: Kind
    asked: bool
    matched: Arm
    none: Arm
    deranged: Arm
    constant: Arm | None
    sender_read: Amount
    sender_written: Amount
    receiver_read: Amount
    receiver_written: Amount
    gain: Difference
    content: Difference
    against: Difference
    clock: Clock

    @property
    def accuracy(self) -> float:
        return self.matched.accuracy

    @property
    def tokens(self) -> float:
        """All tokens that both sides read and write."""
        return self.matched.tokens_read + self.matched.tokens_written

    @property
    def verdict(self) -> str:
        """In words, by the 95 % intervals."""
        if self.content.low > 0:
            return "content"
        return "presence only" if self.gain.low > 0 else "no gain shown"


def front(
    arms: Sequence[Channelled], cost: Callable[[Channelled], float]
) -> tuple[Channelled, ...]:
    """The arms that no other arm beats: none costs at most as much and is more accurate, or costs
    less and is as accurate. The cheapest comes first."""
    found: list[Channelled] = []
    for arm in sorted(arms, key=lambda one: (cost(one), -one.accuracy)):
        if not found or arm.accuracy > found[-1].accuracy:
            found.append(arm)
    return tuple(found)


@dataclass(frozen=True, repr=False)
class FrontsReport(Result):
    """Every arm on one task, in two classes: blind, and asked, whose senders know the question."""

    arms: tuple[Channelled, ...]

    def of_class(self, *, asked: bool) -> tuple[Channelled, ...]:
        return tuple(arm for arm in self.arms if arm.asked == asked)

    @property
    def verbatim(self) -> Channelled:
        """The most accurate arm that reads the text word for word."""
        return max((arm for arm in self.arms if arm.kind == "verbatim"), key=lambda a: a.accuracy)

    def pays(self, arm: Channelled, clock: ClockName) -> bool:
        """Whether a latent channel is on the front.

        Its content is shown, reading the text word for word takes longer, and no text arm of its
        class that is as fast is more than two points more accurate.
        """
        text = [one for one in self.of_class(asked=arm.asked) if one.kind != "latent"]
        time = arm.clock.answer(clock)
        faster = [one.accuracy for one in text if one.clock.answer(clock) <= time]
        return (
            arm.kind == "latent"
            and arm.content.low > 0
            and self.verbatim.clock.answer(clock) > time
            and all(accuracy <= arm.accuracy + _LEVEL for accuracy in faster)
        )

    def keeps(self, arm: Channelled) -> bool:
        """Whether a latent channel with content loses less than 3 points against the text."""
        return arm.kind == "latent" and arm.content.low > 0 and arm.against.low > _LOSS

    def halves(self, arm: Channelled, clock: ClockName) -> bool:
        """Whether it answers in half the time of the text at most, and `keeps` its accuracy."""
        return self.keeps(arm) and arm.clock.share(self.verbatim.clock, clock).value <= 0.5

    def sentence(self, clock: ClockName) -> str:
        """Which latent channel is on the front of the blind arms, and by how much."""
        text, blind = self.verbatim, self.of_class(asked=False)
        time, begun = text.clock.answer(clock), _BEGUN[clock]
        winners = [arm for arm in blind if self.pays(arm, clock)]
        if not winners:
            return f"{begun}, no latent channel is on the front. {self._reason(clock)}."
        best = max(winners, key=lambda arm: (arm.accuracy, -arm.clock.answer(clock)))
        own = best.clock.answer(clock)
        return (
            f"{begun}, {best.name} is on the front: {100 * best.accuracy:.1f} % in {own:.2f} s, "
            f"and {text.name} {100 * text.accuracy:.1f} % in {time:.2f} s. It is "
            f"{time / own:.1f} times as fast with {best.matched.wire_bytes:,.0f} bytes instead of "
            f"{text.matched.wire_bytes:,.0f}."
        )

    def _reason(self, clock: ClockName) -> str:
        latent = [arm for arm in self.of_class(asked=False) if arm.kind == "latent"]
        if not latent:
            return "None was asked"
        best = max(latent, key=lambda arm: arm.accuracy)
        own = f"{best.name}, has {100 * best.accuracy:.1f} % in {best.clock.answer(clock):.2f} s"
        text = [arm for arm in self.of_class(asked=False) if arm.kind != "latent"]
        rival = max(text, key=lambda arm: (arm.accuracy, -arm.clock.answer(clock)))
        shown = "" if best.content.low > 0 else f". The content of {best.name} is not shown"
        return (
            f"The best of them, {own}, and {rival.name} {100 * rival.accuracy:.1f} % in "
            f"{rival.clock.answer(clock):.2f} s{shown}"
        )

    def findings(self) -> list[str]:
        """A sentence for each clock, then who halves the time."""
        found = [self.sentence(clock).removesuffix(".") for clock in CLOCKS]
        half: list[tuple[ClockName, Channelled]] = [
            (clock, arm) for clock in CLOCKS for arm in self.arms if self.halves(arm, clock)
        ]
        for clock, arm in half:
            found.append(
                f"{_BEGUN[clock]}, {arm.name} answers in {self._share(arm, clock)} of the time of "
                f"{self.verbatim.name}, {_points(arm.against)} points; its content is worth "
                f"{_points(arm.content)}"
            )
        return found if half else [*found, self._nearest()]

    def _share(self, arm: Channelled, clock: ClockName) -> str:
        share = arm.clock.share(self.verbatim.clock, clock)
        return f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"

    def _nearest(self) -> str:
        """That no arm takes half the time, and which one takes least."""
        none = "No channel is shown to take half the time of the text and lose less than 3 points"
        kept = [arm for arm in self.arms if self.keeps(arm)]
        if not kept:
            return none
        clock: ClockName = "sender has read"
        best = min(kept, key=lambda arm: arm.clock.share(self.verbatim.clock, clock).value)
        return (
            f"{none}. Once the sender has read, {best.name} takes {self._share(best, clock)} of "
            f"the text's time, {_points(best.against)} points; its content is worth "
            f"{_points(best.content)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of fronts.json. Predictions for each item are in files beside it."""
        content = asdict(self)
        for arm in content["arms"]:
            for condition in ("matched", "none", "deranged", "constant"):
                if arm[condition] is not None:
                    del arm[condition]["correct"]
        return content

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table, arm by arm."""
        for arm in self.arms:
            yield [
                arm.name,
                "asked" if arm.asked else "blind",
                f"{100 * arm.accuracy:.1f} ({100 * arm.matched.ci_low:.0f}-"
                f"{100 * arm.matched.ci_high:.0f})",
                f"{100 * arm.none.accuracy:.0f}",
                f"{100 * arm.deranged.accuracy:.0f}",
                "-" if arm.constant is None else f"{100 * arm.constant.accuracy:.0f}",
                _points(arm.against),
                *(
                    f"{arm.clock.first(clock):.2f} / {arm.clock.answer(clock):.2f}"
                    for clock in CLOCKS
                ),
                f"{arm.sender_read:.0f} + {arm.sender_written:.0f}",
                f"{arm.receiver_read:.0f} + {arm.receiver_written:.0f}",
                f"{arm.matched.wire_bytes:,.0f}",
            ]

    def table(self) -> Table:
        """Accuracy, seconds and bytes, for a terminal of 80 columns or more."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for number in _SHOWN:
            table.add_column(COLUMNS[number], justify="right" if number else "left")
        for row in self.rows():
            table.add_row(*(row[number] for number in _SHOWN))
        return table

    @property
    def about(self) -> str:
        """What the columns are, in sentences."""
        clock = self.arms[0].clock
        whose = "of one thread of the processor" if clock.processor else "by the wall"
        cut = notes([replace(arm.matched, timed=None) for arm in self.arms])
        return (
            "The sender of a blind arm does not know the question. Against text: points more or "
            f"less than {self.verbatim.name}, which reads the text word for word. Seconds {whose}: "
            "to the receiver's first token / to the end of its answer, the median of "
            f"{len(clock.items)} items, each asked alone ({clock.timed}). Both agents have read "
            "their instructions before, and messages pass as bytes without a network. Tokens: read "
            "+ written for an item, instructions included."
            f"{self._controlled}{f' {cut}' if cut else ''}"
        )

    @property
    def _controlled(self) -> str:
        arm = self.arms[0]
        if arm.none.n == arm.matched.n:
            return ""
        return f" The controls were asked about {arm.none.n} of the {arm.matched.n} items."

    def markdown(self) -> str:
        return (
            f"# Which channel pays: {self.title}\n\n{self.stated}\n\n"
            + "".join(f"* {line}.\n" for line in self.findings())
            + f"\n{markdown_table(COLUMNS, self.rows())}\n{self.about}\n\n"
            "![accuracy against time, bytes and tokens](fronts.svg)\n"
        )

    def save(self, out: str | Path) -> None:
        """Write fronts.json and fronts.md, each whole or not at all."""
        write_result(Path(out, "fronts.json"), self.to_dict())
        write_text(Path(out, "fronts.md"), self.markdown())


COLUMNS = (
    "arm",
    "class",
    "% right (95 %)",
    "no message",
    "mismatched",
    "constant",
    "against text (95 %)",
    "seconds, nothing read",
    "seconds, sender has read",
    "sender's tokens",
    "receiver's tokens",
    "bytes",
)
"""The heads of the table."""

_SHOWN = (0, 2, 7, 8, 11)
"""The columns that a terminal has room for."""

_BEGUN: dict[ClockName, str] = {
    "nothing read": "If nobody has read the text yet",
    "sender has read": "Once the sender has read",
}


def _points(one: Difference) -> str:
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
