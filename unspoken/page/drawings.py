"""The drawings of a page: gains and contents, accuracies, bits, rate and distortion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from unspoken.evaluation.bits import Information
from unspoken.evaluation.statistics import Difference, Estimate
from unspoken.page.plot import Axis, Chart, Curve, Dot, Forest, Mark, Panel, Row
from unspoken.studies.comparison.report import ChannelWorth, Compared
from unspoken.studies.rate.report import Point, RateReport

__all__ = ["accuracies", "differences", "information", "rate_chart"]


def _percent(value: float) -> str:
    return f"{round(100 * value, 6):g}"


def _points(value: float) -> str:
    return f"{round(100 * value, 6):+g}" if round(100 * value, 6) else "0"


def differences(found: Compared) -> Forest:
    """Gain, content and what is left above trained controls, in points, beside zero."""
    ends = [0.0]
    for worth in found.channels.values():
        ends += [end for _, _, one in _differences(worth) for end in (one.low, one.high)]
    axis = Axis.over(ends, show=_points)
    rows = tuple(
        Row(
            name,
            tuple(
                Mark(
                    kind,
                    told,
                    axis.at(one.value),
                    axis.at(one.low),
                    axis.at(one.high),
                    f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]",
                    f"p = {one.p:.2g}",
                )
                for kind, told, one in _differences(worth)
            ),
            worth.verdict,
        )
        for name, worth in found.channels.items()
    )
    return Forest(axis, rows, "points", (axis.at(0.0),))


def _differences(worth: ChannelWorth) -> Iterator[tuple[str, str, Difference]]:
    found = (
        ("gain", "gain", worth.gain),
        ("content", "content", worth.content),
        ("constant", "above constant", worth.over_constant),
        ("lora", "above lora", worth.over_lora),
    )
    for kind, told, one in found:
        if one is not None:
            yield kind, told, one


def accuracies(found: Compared) -> Forest:
    """Right answers of every arm, in percent."""
    axis = Axis.over([0.0, *(arm.ci_high for arm in found.arms)], show=_percent)
    rows = tuple(
        Row(
            name,
            tuple(
                Mark(
                    arm.condition,
                    arm.condition,
                    axis.at(arm.accuracy),
                    axis.at(arm.ci_low),
                    axis.at(arm.ci_high),
                    f"{100 * arm.accuracy:.1f} ({100 * arm.ci_low:.0f}-{100 * arm.ci_high:.0f})",
                )
                for arm in found.arms
                if arm.channel == name
            ),
        )
        for name in found.channels
    )
    return Forest(axis, rows, "% right")


def information(channels: Sequence[Information]) -> Forest:
    """Bits of the right message, of another item's, and against none, beside the ceiling."""
    kinds: tuple[tuple[str, str, Callable[[Information], Estimate]], ...] = (
        ("matched", "right message", lambda one: one.bits),
        ("deranged", "another item's", lambda one: one.deranged),
        ("pvi", "against none (PVI)", lambda one: one.pvi),
    )
    ends = [0.0, channels[0].ceiling]
    for one in channels:
        ends += [end for _, _, of in kinds for end in (of(one).low, of(one).high)]
    axis = Axis.over(ends, show=lambda value: f"{value:g}")
    rows = tuple(
        Row(one.channel, tuple(_bits(axis, kind, told, of(one)) for kind, told, of in kinds))
        for one in channels
    )
    lines = (axis.at(0.0), axis.at(channels[0].ceiling))
    return Forest(axis, rows, "bits", lines)


def _bits(axis: Axis, kind: str, told: str, one: Estimate) -> Mark:
    text = f"{one:.2f}"
    return Mark(kind, told, axis.at(one.value), axis.at(one.low), axis.at(one.high), text)


def rate_chart(report: RateReport) -> Chart:
    """Distortion against bytes, positions and usable bits of a message, channel by channel."""
    ends = [0.0, 1 - report.alone.accuracy]
    ends += [
        end for one in report.points for end in (one.distortion_ci.low, one.distortion_ci.high)
    ]
    y = Axis.over(ends, show=_percent)
    bits = Axis.over(
        [0.0, report.ceiling, *(one.bits.value for one in report.points)],
        show=lambda value: f"{value:g}",
    )
    panels = (
        _panel(report, "bytes on the wire", y, lambda one: one.wire),
        _panel(report, "positions", y, lambda one: one.positions),
        _panel(report, "usable bits", y, lambda one: one.bits.value, bits),
    )
    named = ", ".join(report.curves)
    told = f"Wrong answers in percent as messages of {named} get longer; the numbers follow below."
    return Chart(panels, told)


def _panel(
    report: RateReport,
    title: str,
    y: Axis,
    of: Callable[[Point], float],
    axis: Axis | None = None,
) -> Panel:
    """One way to count what travels; logarithmic without an axis of its own."""
    counted = [of(one) for one in report.points if of(one) > 0]
    x = axis or Axis.over(counted or [1.0], show=lambda value: f"{value:,.0f}", log=True)
    curves: list[Curve] = []
    for number, (name, points) in enumerate(report.curves.items()):
        dots = tuple(_dot(one, of(one), x, y) for one in points if axis or of(one) > 0)
        straight = tuple((one.x, one.y, two.x, two.y) for one, two in pairwise(dots))
        pieces = _fitted(report, name, x, y) if axis else straight
        curves.append(Curve(name, number % 8, dots, pieces))
    down = x.at(report.ceiling) if axis else None
    return Panel(title, x, y, tuple(curves), y.down(1 - report.alone.accuracy), down)


def _dot(one: Point, x: float, across: Axis, y: Axis) -> Dot:
    low, high = one.distortion_ci.low, one.distortion_ci.high
    told = (
        f"{one.curve}, {one.setting}: {100 * one.distortion:.0f} % wrong "
        f"({100 * low:.0f}-{100 * high:.0f}), {one.wire:,.0f} bytes, "
        f"{one.positions:.1f} positions, {one.bits.value:.2f} bits"
    )
    return Dot(across.at(x), y.down(one.distortion), y.down(low), y.down(high), told)


def _fitted(
    report: RateReport, name: str, x: Axis, y: Axis
) -> tuple[tuple[float, float, float, float], ...]:
    """The fit of a curve in short straight pieces, between its least and its most bits."""
    form = report.fits.get(name)
    if form is None:
        return ()
    known = [one.bits.value for one in report.curves[name]]
    steps = [min(known) + (max(known) - min(known)) * n / 24 for n in range(25)]
    places = [(x.at(step), y.down(form.at(step))) for step in steps]
    return tuple((*one, *two) for one, two in pairwise(places))
