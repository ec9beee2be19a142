"""How agents are joined: who takes a turn when, who answers, and what cannot work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

from unspoken.agents import Agent, Edge
from unspoken.errors import PipelineError, require, unknown
from unspoken.types import is_count

__all__ = ["check_given", "check_wiring", "edges_to", "mermaid", "side_by_side", "turn_order"]


def check_given(agents: Any, edges: Any, rounds: Any, until: Any, answer: Any) -> None:
    """Raise `PipelineError` for what no pipeline can be made of."""
    for what, given, fits, allowed in (
        ("agents of a pipeline", agents, _listed(agents, _makes_agent), "a list of agents"),
        ("edges of a pipeline", edges, _listed(edges, _is_edge), "a list of edges"),
        ("rounds of a pipeline", rounds, is_count(rounds), "a whole number above 0"),
        ("until of a pipeline", until, until is None or callable(until), "a function of a run"),
        ("answer of a pipeline", answer, answer is None or isinstance(answer, str), "a name"),
    ):
        require(fits, what, given, allowed, PipelineError)
    if until is not None and rounds == 1:
        raise PipelineError(
            "`until` ends rounds before the last one, and there is only one; set rounds to the "
            "most that there may be"
        )


def _listed(given: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(given, list | tuple) and all(map(kind, cast(Sequence[Any], given)))


def _makes_agent(given: Any) -> bool:
    return isinstance(given, Agent) or callable(given)


def _is_edge(given: Any) -> bool:
    return isinstance(given, Edge)


def edges_to(edges: Sequence[Edge], to: str) -> list[Edge]:
    """The edges whose messages reach an agent, directly or through other agents."""
    reached, before = {to}, set[str]()
    while reached != before:
        before = reached
        reached = reached | {edge.sender for edge in edges if edge.receiver in reached}
    return [edge for edge in edges if edge.receiver in reached]


def check_wiring(names: Sequence[str], edges: Sequence[Edge], answer: str) -> None:
    """Raise `UnknownName` or `PipelineError` for what would never be heard.

    That is an edge to nobody, an edge that is listed twice, and an agent whose words do not reach
    the answer.
    """
    for n, edge in enumerate(edges):
        for name in (edge.sender, edge.receiver):
            if name not in names:
                raise unknown("agent", name, names, "Edges join agents of the pipeline.")
        if any(edge.repeats(other) for other in edges[:n]):
            raise PipelineError(
                f"the edge from {edge.sender!r} to {edge.receiver!r} over "
                f"{edge.channel.name!r} is listed twice; take one of them away"
            )
    heard = {edge.sender for edge in edges_to(edges, answer)} | {answer}
    for name in names:
        if name not in heard:
            sends = [edge.receiver for edge in edges if edge.sender == name]
            what = f"only to {sends}, which do not reach the answer" if sends else "to nobody"
            raise PipelineError(
                f"agent {name!r} sends {what}, so it would work in vain: {answer!r} answers. Add "
                f"an edge from {name!r}, take the agent away, or say who answers with "
                f"answer={name!r}. Without `answer` it is the last agent listed"
            )


def turn_order(names: Sequence[str], edges: Sequence[Edge], rounds: int, answer: str) -> list[str]:
    """Who takes turns after whom, the answering agent last. With several rounds it is the list."""
    listed = [*(name for name in names if name != answer), answer]
    if rounds > 1:
        return listed
    graph = TopologicalSorter({name: () for name in listed})
    for edge in edges:
        graph.add(edge.receiver, edge.sender)
    try:
        return list(graph.static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise PipelineError(
            f"the edges run in a circle, {circle}; take one away or set rounds to 2 or more"
        ) from error


def side_by_side(order: Sequence[str], edges: Sequence[Edge]) -> Iterator[list[str]]:
    """Neighbours in the order of which none sends to another, so that they may work at once."""
    group: list[str] = []
    for name in order:
        joined = {
            end
            for edge in edges
            for end in (edge.sender, edge.receiver)
            if name in (edge.sender, edge.receiver)
        }
        if joined & {*group}:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def mermaid(order: Sequence[str], edges: Sequence[Edge]) -> str:
    """A flowchart in Mermaid, which Markdown pages draw. The answering agent has a double frame."""
    numbers = {name: f"a{n}" for n, name in enumerate(order)}
    lines = ["flowchart LR"]
    for name, number in numbers.items():
        left, right = ("[[", "]]") if name == order[-1] else ("[", "]")
        lines.append(f'    {number}{left}"{_escaped(name)}"{right}')
    lines += [
        f"    {numbers[edge.sender]} -- {edge.channel.name} --> {numbers[edge.receiver]}"
        for edge in edges
    ]
    return "\n".join(lines) + "\n"


def _escaped(name: str) -> str:
    words = " ".join(name.split())
    for letter, spelled in (("&", "&amp;"), ("#", "#35;"), ('"', "&quot;"), ("<", "&lt;")):
        words = words.replace(letter, spelled)
    return words
