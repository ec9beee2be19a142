"""What a projected memory costs its receiver, beside the same text to read.

    python -m benchmarks.memory_price
    python -m benchmarks.memory_price --tokens 10 150 --items 8 --out results.json

SmolLM2 has read its instructions. It gets a question and a text of `--tokens` tokens, or a memory
of that text, projected from the cache of Gemma-3-270M. The seconds begin with the bytes of the
message and end with the first token of the answer. Arms take turns at each text, on one thread, and
the seconds are those of the processor.

Arms: the words; a memory whose codes the receiver decodes, or that its sender has decoded, as
float32, int8 and int4. `sending` is what the sender spends once it has read the text.

The projector is new and not trained. What it computes does not depend on its weights, so neither do
the seconds and bytes. Its answers mean nothing and are not looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from unspoken.channels import Channel, ProjectedMemory, TextChannel
from unspoken.channels.memory import DecodedBy
from unspoken.evaluation.result import about_machine
from unspoken.evaluation.statistics import resampled
from unspoken.files import write_text
from unspoken.pipeline import Edge, Pipeline, Query, fields_of
from unspoken.recipe.config import RelayRecipe
from unspoken.recipe.loading import load_recipe
from unspoken.relay.relay import Relay
from unspoken.relay.trained import trained_channel
from unspoken.seeding import seeded
from unspoken.studies.fronts.clock import clocked
from unspoken.tasks import TaskSource, load_task
from unspoken.wire import LOSSLESS, Int4, Int8, Packing

WORDS = "words"
PACKINGS: Mapping[str, Packing] = {"float32": LOSSLESS, "int8": Int8(), "int4": Int4()}
QUESTION = "What is it about?"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--tokens", type=int, nargs="+", default=[10, 40, 150, 600])
    options.add_argument("--items", type=int, default=12, help="texts of each length")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/memory-price.json"))
    given = options.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("recipes/memory_projector.yaml", ["prompts.answer_tokens=1"])
    assert isinstance(recipe, RelayRecipe)
    relay = Relay.of(recipe)
    pipelines = arms(relay)
    found = [
        row
        for length in given.tokens
        for row in measured(pipelines, texts(relay, length, given.items), length)
    ]
    result = {
        "benchmark": "memory-price",
        "items": given.items,
        "arms": found,
        "models": [
            {"name": one.name, "fingerprint": one.fingerprint}
            for one in (relay.sender, relay.receiver)
        ],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print(table(found))


def arms(relay: Relay) -> dict[str, Pipeline]:
    """The words, and a memory by who decodes it and how its numbers travel."""
    settings = relay.recipe.projector
    with seeded(0):
        projector = trained_channel(settings.kind).fresh(relay, settings).eval()

    def over(channel: Channel, pack: Packing) -> Pipeline:
        sender, receiver = relay.reader(), relay.solver()
        return Pipeline([sender, receiver], [Edge(sender.name, receiver.name, channel, pack)])

    found = {WORDS: over(TextChannel(verbatim=True), LOSSLESS)}
    for side in get_args(DecodedBy):
        channel = ProjectedMemory(projector, decoded_by=side)
        for name, pack in PACKINGS.items():
            found[f"memory, decoded by the {side}, {name}"] = over(channel, pack)
    return found


def texts(relay: Relay, length: int, count: int) -> list[str]:
    """Paragraphs joined and cut to `length` tokens of the receiver."""
    found = [item.context for item in load_task(TaskSource(name="paragraphs")).test]
    joined = [" ".join(islice(cycle(found), at, at + 6)) for at in range(0, 6 * count, 6)]
    return [relay.receiver.shorten(text, length) for text in joined]


def measured(
    pipelines: Mapping[str, Pipeline], contexts: Sequence[str], length: int
) -> list[dict[str, Any]]:
    """A row for each arm: seconds in the median, the share of the words' with its interval."""
    queries = [{"context": text, "question": QUESTION} for text in contexts]
    clocks = clocked(pipelines, queries, f"{length} tokens").arms
    words = [one.taking for one in clocks[WORDS].items]
    rows: list[dict[str, Any]] = []
    for name, clock in clocks.items():
        taking = [one.taking for one in clock.items]
        shares = [own / read for own, read in zip(taking, words, strict=True)]
        rows.append(
            {
                "tokens": length,
                "arm": name,
                "seconds": round(median(taking), 4),
                "sending": round(median(one.sending for one in clock.items), 4),
                "share": asdict(resampled(partial(_middle, shares), range(len(shares)))),
                "bytes": sent(pipelines[name], queries[0]),
            }
        )
    return rows


def _middle(values: Sequence[float], rows: Sequence[int]) -> float:
    return median(values[row] for row in rows)


def sent(pipeline: Pipeline, query: Query) -> int:
    """The bytes of the one message that a query makes an agent send."""
    (edge,) = pipeline.edges
    state, _ = pipeline.agents[edge.sender].compute(fields_of([query]), needs=edge.needs)
    return len(edge.send(state).to_bytes())


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, title="from the message to the first token")
    for column in ("tokens", "arm", "seconds", "of the words' time", "sending", "bytes"):
        shown.add_column(column, justify="left" if column == "arm" else "right")
    for row in rows:
        share = row["share"]
        part = "{value:.2f} [{low:.2f}, {high:.2f}]".format(**share)
        numbers = f"{row['seconds']:.3f}", part, f"{row['sending']:.3f}", f"{row['bytes']:,}"
        shown.add_row(f"{row['tokens']}", row["arm"], *numbers)
    return shown


if __name__ == "__main__":
    main()
