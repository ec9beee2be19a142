"""A pipeline's graph: what each edge is worth, which are kept, and what that costs elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from unspoken.evaluation.arm import Arm, notes
from unspoken.evaluation.result import Result, markdown_table, write_result
from unspoken.evaluation.statistics import Difference
from unspoken.files import write_text
from unspoken.studies.edges.attribution import EdgeWorth
from unspoken.studies.edges.pruning import Pruned

__all__ = ["ALL", "NONE", "PRUNED", "REST", "Against", "GraphReport", "condition_of"]

ALL, PRUNED, REST, NONE = "all edges", "pruned", "what was cut", "no edges"


@dataclass(frozen=True)
class Against:
    """Differences in right answers of a graph, on the same test items.

    against_all: from those over all edges. content: of the right messages from another item's;
    None without an edge.
    """

    against_all: Difference
    content: Difference | None


@dataclass(frozen=True, repr=False)
class GraphReport(Result):
    """What the edges of a pipeline are worth, and what some of them alone are.

    order: the agents as they take their turns. edges: by attribution, on items that nothing else
    was measured on; accuracy: over all edges, on the same. graphs: by name the edges that a graph
    has; arms: each graph asked the test items, `matched` and `deranged`, or `none` without edges;
    differences: between them, by graph.
    """

    order: tuple[str, ...]
    edges: tuple[EdgeWorth, ...]
    accuracy: float
    pruned: Pruned | None
    graphs: Mapping[str, tuple[int, ...]]
    arms: tuple[Arm, ...]
    differences: Mapping[str, Against]

    def arm(self, graph: str, condition: str = "") -> Arm:
        """One arm, by default the one in use. Raises `KeyError` if it was not run."""
        condition = condition or condition_of(self.graphs.get(graph, ()))
        for arm in self.arms:
            if (arm.channel, arm.condition) == (graph, condition):
                return arm
        raise KeyError(f"no arm {condition!r} of graph {graph!r}")

    def names(self, graph: str) -> str:
        """The edges of a graph, in words."""
        return ", ".join(self.edges[n].name for n in self.graphs[graph]) or "none"

    def to_dict(self) -> dict[str, Any]:
        """The content of edges.json. Predictions per item are in files beside it."""
        arms = [{k: v for k, v in asdict(arm).items() if k != "correct"} for arm in self.arms]
        edges = [
            {
                **asdict(edge),
                "bits_per_kib": edge.per_kib,
                "bits_per_position": edge.per_position,
                "verdict": edge.verdict,
            }
            for edge in self.edges
        ]
        return {**asdict(self), "edges": edges, "arms": arms}

    def save(self, out: str | Path) -> None:
        """Write edges.json and edges.md, each whole or not at all."""
        write_result(Path(out, "edges.json"), self.to_dict())
        write_text(Path(out, "edges.md"), self.markdown())

    # -- words -------------------------------------------------------------------------------------

    def table(self) -> Table:
        """The edges, for a terminal of 80 columns or more."""
        task = self.task
        title = f"{task['name']}, {task['protocol']}, {task['attributed']} items, bits (95 %)"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for number, name in enumerate(("edge", "channel", "bytes", "gain", "content")):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number > 0)
        for edge in self.edges:
            table.add_row(
                edge.name,
                edge.channel,
                f"{edge.wire:,.0f}",
                f"{edge.gain_bits:+.2f}",
                f"{edge.content_bits:+.2f}",
            )
        return table

    def findings(self) -> list[str]:
        """A sentence for each edge and each graph, and which items they are about."""
        task, overlap = self.task, self.task["overlap"]
        lines = [
            f"edges by {task['attributed']} validation items, graphs by {task['items']} test "
            f"items; facts in both: {overlap['facts']}, questions: {overlap['questions']}"
        ]
        lines += [
            f"{edge.name} ({edge.channel}): without it {_points(edge.gain, -1)}, with another "
            f"item's message {_points(edge.content, -1)}: {edge.verdict}"
            for edge in self.edges
        ]
        if self.pruned is not None:
            most, unit = self.pruned.budget.most, self.pruned.budget.unit
            lines.append(f"kept of at most {most:,g} {unit}: {self.names(PRUNED)}")
        return lines + [self._graph(name) for name in self.graphs]

    def _graph(self, name: str) -> str:
        arm, found = self.arm(name), self.differences[name]
        sentence = (
            f"{name} ({self.names(name)}): " if name not in (ALL, NONE, PRUNED) else f"{name}: "
        )
        sentence += f"{100 * arm.accuracy:.1f} % of the test items"
        if name != ALL:
            sentence += f", {_points(found.against_all)} against all edges"
        return sentence + (f"; content {_points(found.content)}" if found.content else "")

    def markdown(self) -> str:
        models = ", ".join(f"{m['name']} ({m['fingerprint']})" for m in self.models)
        task, note = self.task, notes(self.arms)
        return (
            f"# Which edges matter: {task['name']}, {task['protocol']} protocol\n\n"
            f"Edges by {task['attributed']} items of the split validation, over all edges "
            f"{100 * self.accuracy:.1f} % right; graphs by {task['items']} items of the split "
            f"test. Seed {self.seed}. Models: {models}.\n\n"
            + markdown_table(_EDGES, self.rows())
            + "\n"
            + markdown_table(_GRAPHS, self._graphs())
            + "\n"
            + "".join(f"* {line}\n" for line in self.findings())
            + "\n![the graph: width by bits gained, colour by what they are](edges.svg)\n\n"
            "without: the pipeline without this edge. wrong: this edge alone carries what it would "
            "about another item. gain and content: how much likelier the right answer is over all "
            "edges than without, and than wrong, in bits, with a percentile bootstrap over items "
            "by the seed; accuracies in percent, p by McNemar's exact test. No interval is "
            "corrected for the number of edges. bytes: on the wire for an item, header included; "
            "pos.: positions of the receiver. Edges that say the same look worthless one by "
            "one. Pruning removes them one after the other and judges the rest again. deranged: "
            f"all messages are another item's (mismatched messages).{note and f' {note}'}\n"
        )

    def rows(self) -> Iterator[list[str]]:
        """The cells of the table of edges."""
        for edge in self.edges:
            yield [
                edge.name,
                edge.channel,
                f"{edge.wire:,.0f}",
                f"{edge.positions:.1f}",
                f"{100 * edge.without:.1f} (p = {edge.gain.p:.2g})",
                f"{100 * edge.wrong:.1f} (p = {edge.content.p:.2g})",
                f"{edge.gain_bits:+.2f}",
                f"{edge.content_bits:+.2f}",
                f"{edge.per_kib:.3g}",
                f"{edge.per_position:.3g}",
                edge.verdict,
            ]

    def _graphs(self) -> Iterator[list[str]]:
        for arm in self.arms:
            yield [
                arm.channel,
                arm.condition,
                self.names(arm.channel),
                f"{100 * arm.accuracy:.1f} ({100 * arm.ci_low:.0f}-{100 * arm.ci_high:.0f})",
                f"{arm.tokens_read:.0f}",
                f"{arm.tokens_written:.1f}",
                f"{arm.wire_bytes:,.0f}",
                f"{arm.seconds:.2f}",
            ]


_EDGES = (
    "edge",
    "channel",
    "bytes",
    "pos.",
    "without %",
    "wrong %",
    "gain, bits",
    "content, bits",
    "gain/KiB",
    "gain/pos.",
    "verdict",
)
_GRAPHS = ("graph", "condition", "edges", "% right (95 %)", "read", "written", "bytes", "sec")


def condition_of(edges: Sequence[int]) -> str:
    """How a graph with these edges is asked: with its messages, or with none."""
    return "matched" if edges else "none"


def _points(found: Difference, sign: int = 1) -> str:
    low, high = sorted((sign * found.low, sign * found.high))
    value = 100 * sign * found.value + 0.0  # never -0.0
    return f"{value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] (p = {found.p:.2g})"
