"""Pictures: of a comparison, of rate and distortion, of a fuser's gates, of a graph."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unspoken.errors import MissingExtra
from unspoken.files import write_bytes
from unspoken.studies.edges.attribution import CONTENT, HARM, NOTHING, PRESENCE, REDUNDANT

if TYPE_CHECKING:
    from unspoken.projectors import Fuser
    from unspoken.studies.comparison.report import Report
    from unspoken.studies.edges.attribution import EdgeWorth
    from unspoken.studies.edges.report import GraphReport
    from unspoken.studies.rate.report import RateReport
    from unspoken.studies.teams import PlanReport
    from unspoken.studies.telephone import TelephoneReport

__all__ = [
    "draw",
    "draw_edges",
    "draw_gates",
    "draw_plan",
    "draw_rates",
    "draw_telephone",
]

_COLOURS = {
    "none": "#c9c9c9",
    "constant": "#8d99ae",
    "lora": "#b08ea2",
    "deranged": "#e07a5f",
    "matched": "#2a6f97",
}


def draw(report: Report, path: Path) -> None:
    """Bars of accuracy in percent with 95 % Wilson intervals; one group a channel."""
    channels, shown = report.channels, {arm.condition for arm in report.arms}
    conditions = [name for name in _COLOURS if name in shown]
    figure = _figure(1.6 + 1.7 * len(channels), 4.2)
    axes = figure.subplots()
    width = 0.8 / len(conditions)
    for arm in report.arms:
        place = channels.index(arm.channel) + width * (
            conditions.index(arm.condition) - (len(conditions) - 1) / 2
        )
        value = 100 * arm.accuracy
        spread = [[value - 100 * arm.ci_low], [100 * arm.ci_high - value]]
        colour = _COLOURS[arm.condition]
        axes.bar(place, value, width, yerr=spread, color=colour, error_kw={"lw": 0.8})
        axes.text(place, 100 * arm.ci_high + 1, f"{value:.0f}", ha="center", fontsize=8)
    handles = [axes.bar([0], [0], color=_COLOURS[name], label=name) for name in conditions]
    axes.legend(handles=handles, frameon=False, fontsize=8, ncols=len(handles), loc="upper left")
    names = [name.replace(", ", ",\n") for name in channels]
    axes.set_xticks(range(len(channels)), names, fontsize=9)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, min(115, max(100 * arm.ci_high for arm in report.arms) + 15))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{report.task['name']}, {report.task['protocol']}, n = {report.task['items']}: "
        "what was the message worth?",
        fontsize=10,
    )
    _save(figure, path)


def draw_gates(fuser: Fuser, path: Path) -> None:
    """One column a fused layer, keys above values: sigmoid(logit), and a dot where it is open."""
    gates = fuser.gates()
    logits = torch.tensor([[gate.key for gate in gates], [gate.value for gate in gates]])
    figure = _figure(2.6 + 0.4 * len(gates), 2.4)
    axes = figure.subplots()
    shown = axes.imshow(logits.sigmoid().tolist(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for mark, label, chosen in (("o", "open", logits > 0), ("x", "shut", logits <= 0)):
        rows, columns = chosen.nonzero(as_tuple=True)
        axes.scatter(
            columns.tolist(), rows.tolist(), marker=mark, color="#e07a5f", s=24, label=label
        )
    names = [f"{gate.receiver_layer}\n{gate.sharer_layer}" for gate in gates]
    axes.set_xticks(range(len(gates)), names, fontsize=7)
    axes.set_yticks((0, 1), ("keys", "values"), fontsize=9)
    axes.set_xlabel("receiver layer, and sharer layer below it", fontsize=9)
    figure.colorbar(shown, ax=axes, label="strength")
    figure.legend(frameon=False, fontsize=8, loc="outside lower right", ncols=2)
    count = int((logits > 0).sum())
    axes.set_title(f"{count} of {logits.numel()} gates open", fontsize=10)
    _save(figure, path)


def draw_rates(report: RateReport, path: Path) -> None:
    """Distortion against bytes, positions and usable bits of a message; a line for each curve."""
    figure = _figure(12.5, 4.6)
    rates = figure.subplots(1, 3, sharey=True)
    for number, (name, points) in enumerate(report.curves.items()):
        colour, mark = f"C{number % 10}", "osD^vPX*"[number % 8]
        wrong = [point.distortion for point in points]
        spread = [
            [point.distortion - point.distortion_ci.low for point in points],
            [point.distortion_ci.high - point.distortion for point in points],
        ]
        places = (
            [point.wire for point in points],
            [point.positions for point in points],
            [point.bits.value for point in points],
        )
        for axes, along, line in zip(rates, places, ("-", "-", ""), strict=True):
            axes.errorbar(
                along,
                wrong,
                yerr=spread,
                fmt=f"{mark}{line}",
                color=colour,
                ms=4,
                lw=1.2,
                elinewidth=0.6,
                label=name,
            )
        if form := report.fits.get(name):
            least, most = min(places[2]), max(places[2])
            steps = [least + (most - least) * n / 50 for n in range(51)]
            rates[2].plot(steps, [form.at(step) for step in steps], color=colour, lw=1)
    for axes, told in zip(rates, ("bytes on the wire", "positions", "usable bits"), strict=True):
        axes.axhline(1 - report.alone.accuracy, color="#8d99ae", ls=":", lw=1, label="no message")
        axes.set_xlabel(told)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in rates[:2]:
        _logarithmic(axes)
    rates[2].axvline(report.ceiling, color="#c9c9c9", lw=1)
    rates[0].set_ylabel("distortion, 1 - accuracy")
    rates[0].set_ylim(0, 1.02)
    handles, names = rates[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    models = " and ".join(model["name"] for model in report.models)
    figure.suptitle(
        f"{models}: {report.task['name']}, {report.task['protocol']}, n = {report.task['items']}",
        fontsize=10,
    )
    _save(figure, path)


_WORTHS = {
    CONTENT: "#2a6f97",
    REDUNDANT: "#89c2d9",
    PRESENCE: "#e9c46a",
    HARM: "#e07a5f",
    NOTHING: "#c9c9c9",
}


def draw_edges(report: GraphReport, path: Path) -> None:
    """The agents and their edges: width by bits gained or lost, colour by verdict."""
    places = _places(report.order, report.edges)
    columns = 1 + max(x for x, _ in places.values())
    heights = [y for _, y in places.values()]
    figure = _figure(1.5 + 3.0 * columns, 2.0 + 1.0 * (max(heights) - min(heights)))
    axes = figure.subplots()
    most = max(abs(edge.gain_bits.value) for edge in report.edges) or 1.0
    bends: dict[tuple[str, str], int] = {}
    for edge in report.edges:
        ends = edge.sender, edge.receiver
        bends[ends] = bend = bends.get(ends, -1) + 1
        axes.annotate(
            "",
            places[edge.receiver],
            places[edge.sender],
            arrowprops={
                "arrowstyle": "-|>",
                "color": _WORTHS[edge.verdict],
                "lw": 1 + 7 * abs(edge.gain_bits.value) / most,
                "mutation_scale": 18,
                "shrinkA": 34,
                "shrinkB": 34,
                "connectionstyle": f"arc3,rad={0.25 * bend}",
            },
        )
        (x, y), (to_x, to_y) = places[edge.sender], places[edge.receiver]
        told = f"{edge.channel}\n{edge.gain_bits.value:+.2f} bits, {edge.wire:,.0f} B"
        along = 0.62 / (to_x - x) if to_x > x else 0.3  # near its sender, where edges are apart
        at = x + along * (to_x - x), y + along * (to_y - y) + 0.22 - 0.3 * bend
        axes.text(*at, told, ha="center", va="center", fontsize=8, bbox=_LABEL)
    for name, (x, y) in places.items():
        axes.text(x, y, name, ha="center", va="center", fontsize=10, bbox=_AGENT)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(min(heights) - 0.7, max(heights) + 0.7)
    axes.set_axis_off()
    shown = {edge.verdict for edge in report.edges}
    handles = [
        axes.plot([], [], color=colour, lw=4, label=name)[0]
        for name, colour in _WORTHS.items()
        if name in shown
    ]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    task = report.task
    axes.set_title(
        f"{task['name']}, n = {task['attributed']}: bits that each edge adds", fontsize=10
    )
    _save(figure, path)


_LABEL = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
_AGENT = {"boxstyle": "round,pad=0.5", "fc": "#f4f1de", "ec": "#3d405b"}


def _places(order: Sequence[str], edges: Sequence[EdgeWorth]) -> dict[str, tuple[float, float]]:
    """Where each agent stands: to the right of all whom it hears, at their mean height."""
    column = dict.fromkeys(order, 0)
    for name in order:  # an edge to somebody who spoke before goes back, and moves nobody
        for edge in edges:
            if edge.sender == name and order.index(edge.receiver) > order.index(name):
                column[edge.receiver] = max(column[edge.receiver], column[name] + 1)
    column[order[-1]] = max(column.values())
    found: dict[str, tuple[float, float]] = {}
    for x in sorted(set(column.values())):
        here = [name for name in order if column[name] == x]
        wanted: dict[str, float] = {}
        for n, name in enumerate(here):
            heard = [found[edge.sender][1] for edge in edges if _into(edge, name, found)]
            wanted[name] = sum(heard) / len(heard) if heard else (len(here) - 1) / 2 - n
        y = float("inf")
        for name in sorted(here, key=lambda name: -wanted[name]):
            y = min(wanted[name], y - 1)
            found[name] = (x, y)
    return found


def _into(edge: EdgeWorth, name: str, placed: Mapping[str, object]) -> bool:
    return edge.receiver == name and edge.sender in placed


def draw_plan(report: PlanReport, path: Path) -> None:
    """Bias of one agent by what it reads, and of every team within the budget by its leaves."""
    figure = _figure(11.0, 4.4)
    alone, teams = figure.subplots(1, 2, sharey=True)
    read, biases = [one.read for one in report.solos], [one.bias for one in report.solos]
    spread = [
        [one.value - one.low for one in biases],
        [one.high - one.value for one in biases],
    ]
    values = [one.value for one in biases]
    alone.errorbar(read, values, yerr=spread, fmt="o", color="#2a6f97", ms=4, elinewidth=0.8)
    steps = [read[0] * (read[-1] / read[0]) ** (n / 50) for n in range(51)]
    told = f"{report.law.scale:.2f} x^{report.law.beta:.2f}"
    alone.plot(steps, [report.law.at(x) for x in steps], color="#2a6f97", lw=1, label=told)
    alone.set_xlabel("tokens of the fact that one agent reads")
    alone.set_ylabel("bias, 2 p - 1")
    channels = list(dict.fromkeys(one.channel for one in report.options))
    best: dict[tuple[str, int, int], float] = {}
    for one in report.options:  # best first
        best.setdefault((one.channel, one.team.leaves, one.team.depth), one.bias)
    for number, channel in enumerate(channels):
        found = {key[1:]: bias for key, bias in best.items() if key[0] == channel}
        for depth in sorted({depth for _, depth in found}):
            places = sorted((n, bias) for (n, d), bias in found.items() if d == depth)
            teams.plot(
                [n for n, _ in places],
                [bias for _, bias in places],
                f"{'osD^v'[min(depth, 5) - 1]}-",
                color=f"C{number % 10}",
                ms=4,
                lw=0.8,
                label=f"{channel}, depth {depth}",
            )
    teams.axhline(report.alone, color="#8d99ae", ls=":", lw=1.2, label="one agent, same budget")
    teams.set_xlabel(f"leaves of a team, {report.limits.budget:g} tokens in all")
    for axes in (alone, teams):
        _logarithmic(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"{report.task['name']}, {report.task['protocol']}, n = {report.task['items']}: "
        "one agent as measured, teams as predicted",
        fontsize=10,
    )
    _save(figure, path)


def draw_telephone(report: TelephoneReport, path: Path) -> None:
    """Accuracy and drift in bits by hop, a line a channel; dotted with another item's message."""
    figure = _figure(11.0, 4.4)
    right, drift = figure.subplots(1, 2)
    for number, (name, hops) in enumerate(report.channels.items()):
        colour, along = f"C{number % 10}", [one.hop for one in hops]
        value = [100 * one.matched.accuracy for one in hops]
        spread = [
            [100 * (one.matched.accuracy - one.matched.ci_low) for one in hops],
            [100 * (one.matched.ci_high - one.matched.accuracy) for one in hops],
        ]
        style: dict[str, Any] = {
            "fmt": "o-",
            "color": colour,
            "ms": 4,
            "lw": 1.2,
            "elinewidth": 0.6,
        }
        right.errorbar(along, value, yerr=spread, label=name, **style)
        wrong = [100 * one.deranged.accuracy for one in hops]
        right.plot(along, wrong, ":", color=colour, lw=1)
        spread = [
            [one.drift.value - one.drift.low for one in hops],
            [one.drift.high - one.drift.value for one in hops],
        ]
        drift.errorbar(along, [one.drift.value for one in hops], yerr=spread, **style)
    right.axhline(100 * report.alone.accuracy, color="#8d99ae", ls="--", lw=1, label="no message")
    right.set_ylabel("accuracy, %; dotted: another item's message")
    drift.set_ylabel("drift, bits of log p(answer) against hop 1")
    for axes in (right, drift):
        axes.set_xlabel("hop")
        axes.set_xticks(range(1, report.hops + 1))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *right.get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        ncols=4,
        loc="outside lower center",
    )
    figure.suptitle(
        f"{report.task['name']}, {report.task['protocol']}, n = {report.task['items']}: telephone",
        fontsize=10,
    )
    _save(figure, path)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())  # 3, where the usual one says 3 x 10^0
    axes.xaxis.set_minor_formatter(LogFormatter())


def _figure(width: float, height: float) -> Any:
    """An empty figure, in inches. Raises `MissingExtra` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "a picture needs matplotlib; install it with: pip install 'unspoken[compare]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue())
