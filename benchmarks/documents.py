"""Six documents in another order at every turn: what a pool reuses, and what that changes.

    python benchmarks/documents.py
    python benchmarks/documents.py --sessions 3 --ways shifted share-0.1 --data FILE
    python benchmarks/documents.py --skip 6 --sessions 39 --ways share-0.1

A session has six documents and twelve turns. Each turn shows them in another order and asks a new
question about one of them. A document is 120 to 400 tokens long: two excerpts of one Wikipedia
article, each with the answer to a question and the sentences around it. Every prompt is read
densely, and from one pool for each way, which is empty when a session begins. The first turn of a
session fills the pools, so it does not count.

Both are judged by the questions. `answers`: an accepted answer is among the words that are written
greedily. `choices`: of the right answers to a question about each document, the one to this
question is the likeliest. `kl` is that of the next token in nats, `agrees` whether the likeliest
next token is the same. Intervals are for the paired difference to dense reads.

Each turn is kept in a file when it is done, so a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from unspoken import Agent, AnchorPool, Backbone, Role, Settings
from unspoken.agents.roles import Fields
from unspoken.anchors import LADDERS
from unspoken.evaluation.result import about_machine
from unspoken.evaluation.statistics import difference, wilson
from unspoken.files import sha256, write_text
from unspoken.runs import fields_of
from unspoken.tasks import Item, load_jsonl, normalise
from unspoken.types import Context, Read

DATA = Path(str(files("unspoken").joinpath("tasks/data/paragraphs_test.jsonl")))
EXAMPLE = """Documents, and questions about them with answers of a few words.

## note-0.md
The zoo of Bern opened in 1937. It has 3,200 animals, and its oldest is a turtle called Nina.

Question: What is the oldest animal in the zoo of Bern?
Answer: a turtle called Nina

Question: When did the zoo open?
Answer: 1937

"""
ROLE = Role(EXAMPLE, "{documents}Question: {question}\nAnswer:", chat=False)
SETTINGS = Settings(max_tokens=10)
WAYS = {
    "shifted": LADDERS["shifted"],
    "share-0.05": replace(LADDERS["shifted"], share=0.05),
    "share-0.1": replace(LADDERS["shifted"], share=0.1),
    "anchored": LADDERS["anchored"],
    "anchored, share-0.1": replace(LADDERS["anchored"], share=0.1),
}
DOCUMENTS, TURNS, SHORTEST, LONGEST, EXCERPT = 6, 12, 120, 400, 60


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--sessions", type=int, default=28)
    options.add_argument("--skip", type=int, default=0, help="sessions that do not count")
    options.add_argument("--ways", nargs="+", default=["shifted"], choices=list(WAYS))
    options.add_argument("--data", type=Path, default=DATA, help="items, grouped as ARTICLE-NUMBER")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--kept", type=Path, default=Path("out/documents.jsonl"))
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/documents.json"))
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    agent = Agent("reader", Backbone.from_pretrained(given.model), role=ROLE, settings=SETTINGS)
    found = sessions(load_jsonl(given.data), agent.model, given.sessions, given.seed)
    rows: list[dict[str, Any]] = []
    for number in track(range(given.skip, len(found)), "sessions"):
        rows += measure(agent, found[number], number, given.ways, given.seed, given.kept)
    result = {
        "benchmark": "documents",
        "sessions": [given.skip, len(found)],
        "data": {"items": given.data.name, "sha256": sha256(given.data)},
        "tokens": summary([length for one in found for length in one.lengths]),
        "seed": given.seed,
        "ladders": {way: asdict(WAYS[way]) for way in given.ways},
        **report(rows, given.ways),
        "models": [{"name": agent.model.name, "fingerprint": agent.model.fingerprint}],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print(table(result))


# -- what is asked ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """Documents by name, their lengths in tokens, and two questions about each."""

    documents: Mapping[str, str]
    lengths: Sequence[int]
    questions: Sequence[Item]

    def turns(self, seed: str) -> Iterator[tuple[dict[str, Any], Item]]:
        """A query for each question, with the documents in another order each time."""
        draw, names, asked = Random(seed), list(self.documents), list(self.questions)
        draw.shuffle(asked)
        for item in asked:
            before = list(names)
            while names == before:
                draw.shuffle(names)
            yield (
                {
                    "question": item.question,
                    "documents": {name: self.documents[name] for name in names},
                },
                item,
            )


def sessions(items: Sequence[Item], model: Any, count: int, seed: int) -> list[Session]:
    """Sessions of six documents, drawn by seed."""
    articles: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        articles[item.group.rpartition("-")[0]].append(item)
    found: list[tuple[str, int, list[Item]]] = []
    for own in articles.values():
        for pair in zip(own[::2], own[1::2], strict=False):
            text = "\n".join(excerpt(item, model) for item in pair)
            size = len(model.tokens(text))
            if SHORTEST <= size <= LONGEST:
                found.append((text, size, list(pair)))
    if len(found) < count * DOCUMENTS:
        raise SystemExit(f"{len(found)} documents make no {count} sessions of {DOCUMENTS}")
    Random(seed).shuffle(found)
    return [_session(found[n * DOCUMENTS :][:DOCUMENTS]) for n in range(count)]


def excerpt(item: Item, model: Any) -> str:
    """The sentence that holds the answer, and those around it until they have 60 tokens."""
    sentences = re.split(r"(?<=[.!?])\s+", item.context)
    ends = list(accumulate(len(one) + 1 for one in sentences))
    first = bisect_right(ends, max(0, item.context.find(item.answers[0])))
    first = last = min(first, len(sentences) - 1)
    while len(model.tokens(text := " ".join(sentences[first : last + 1]))) < EXCERPT:
        if (first, last) == (0, len(sentences) - 1):
            break
        first, last = max(0, first - 1), min(len(sentences) - 1, last + 1)
    return text


def _session(found: Sequence[tuple[str, int, list[Item]]]) -> Session:
    texts = {f"note-{n}.md": text for n, (text, *_) in enumerate(found, 1)}
    questions = [item for *_, both in found for item in both]
    return Session(texts, [size for _, size, _ in found], questions)


# -- what is measured ------------------------------------------------------------------------------


def measure(
    agent: Agent, session: Session, number: int, ways: Sequence[str], seed: int, kept: Path
) -> list[dict[str, Any]]:
    """The turns of a session that count. Those that an earlier run has kept are read from there.

    All documents are kept in the first turn, so a session that goes on begins with it again.
    """
    key = {"session": number, "ways": list(ways), "seed": seed, "model": agent.model.fingerprint}
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    rows = {row["turn"]: row for row in known if all(row[name] == key[name] for name in key)}
    if len(rows) == TURNS - 1:
        return list(rows.values())
    pools = {way: AnchorPool(WAYS[way], budget=4 << 30).wrap(agent.model) for way in ways}
    readers = {way: replace(agent, model=pool) for way, pool in pools.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    for turn, (query, item) in enumerate(session.turns(f"{seed} {number}")):
        fields = fields_of([query])
        if turn == 0:
            for reader in readers.values():
                reader.read(fields)
        elif turn not in rows:
            rows[turn] = {**key, "turn": turn, **_turn(agent, readers, fields, item, session)}
            with kept.open("a") as file:
                file.write(json.dumps(rows[turn]) + "\n")
    return list(rows.values())


def _turn(
    agent: Agent, readers: Mapping[str, Agent], fields: Fields, item: Item, session: Session
) -> dict[str, Any]:
    """One turn, read in every way, and judged."""
    reads, seconds = dict[str, Read](), dict[str, float]()
    for way, reader in {"dense": agent, **readers}.items():
        start = perf_counter()
        reads[way] = reader.read(fields)
        seconds[way] = perf_counter() - start
    return {"seconds": seconds, **_judged(agent, reads, item, session.questions)}


@torch.no_grad()
def _judged(
    agent: Agent, reads: Mapping[str, Read], item: Item, questions: Sequence[Item]
) -> dict[str, Any]:
    """Each way's words and choice, and how its next token differs from the dense one."""
    model: Any = agent.model
    contexts = [read.context for read in reads.values()]
    written = model.write_together(contexts, [SETTINGS] * len(contexts))
    others = questions[questions.index(item) % 2 :: 2]  # one about each document
    answers = list(dict.fromkeys(f" {one.answers[0]}" for one in others))
    found: dict[str, Any] = {}
    likely = {way: model.predict(read.context).log_softmax(-1)[0] for way, read in reads.items()}
    for (way, read), words in zip(reads.items(), written, strict=True):
        nats = model.score(repeated(read.context, len(answers)), answers)
        served = read.served[0] if read.served else None
        found[way] = {
            "words": words.words[0],
            "answers": contains(words.words[0], item.answers),
            "choices": answers[int(nats.argmin())] == f" {item.answers[0]}",
            "choice": int(nats.argmin()),
            "tokens": int(read.context.mask.sum()),
            "reused": served.reused / int(read.context.mask.sum()) if served else 0.0,
            "kl": float((likely["dense"].exp() * (likely["dense"] - likely[way])).sum()),
            "agrees": bool(likely["dense"].argmax() == likely[way].argmax()),
        }
    return {"item": item.id, "found": found}


def repeated(context: Context, count: int) -> Context:
    """A context of one row as several. Nothing is copied."""
    return replace(
        context,
        cache=context.cache.expand(count),
        mask=context.mask.expand(count, -1),
        last=context.last.expand(count),
        spelling=context.spelling.repeat(count),
        positions=context.positions.expand(count, -1),
    )


def contains(words: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer is among the words, both normalised."""
    given = f" {normalise(words)} "
    return any(f" {normalise(answer)} " in given for answer in answers)


# -- what came of it -------------------------------------------------------------------------------


def report(rows: Sequence[Mapping[str, Any]], ways: Sequence[str]) -> dict[str, Any]:
    """Each way beside dense reads, over all turns that count."""
    dense = [row["found"]["dense"] for row in rows]
    found: dict[str, Any] = {"n": len(rows), "dense": {}, "ways": {}}
    found["prompt"] = summary([one["tokens"] for one in dense])
    found["dense"] = {"seconds": median(row["seconds"]["dense"] for row in rows)}
    for kind in ("answers", "choices"):
        right = sum(one[kind] for one in dense)
        found["dense"][kind] = {"right": right / len(rows), **asdict(wilson(right, len(rows)))}
    for way in ways:
        own = [row["found"][way] for row in rows]
        found["ways"][way] = {
            "reused": summary([one["reused"] for one in own]),
            **{kind: _against(own, dense, kind) for kind in ("answers", "choices")},
            "same choice": mean(
                a["choice"] == b["choice"] for a, b in zip(own, dense, strict=True)
            ),
            "same words": mean(a["words"] == b["words"] for a, b in zip(own, dense, strict=True)),
            "agrees": mean(one["agrees"] for one in own),
            "kl": {
                "mean": mean(one["kl"] for one in own),
                "median": median(one["kl"] for one in own),
            },
            "seconds": median(row["seconds"][way] for row in rows),
        }
    return found


def _against(own: Sequence[Any], dense: Sequence[Any], kind: str) -> dict[str, float]:
    """The share that is right, and the paired difference to dense reads."""
    right, before = [one[kind] for one in own], [one[kind] for one in dense]
    return {"right": sum(right) / len(right), **asdict(difference(right, before))}


def summary(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "mean": mean(values), "most": max(values)}


def table(result: Mapping[str, Any]) -> Table:
    """The ways side by side."""
    made = Table(title=f"documents in other orders, n = {result['n']}", box=box.SIMPLE_HEAD)
    for name in ("way", "reused %", "answers %", "choices %", "KL", "agrees %", "seconds"):
        made.add_column(name, justify="left" if name == "way" else "right")
    dense = result["dense"]
    rights = [f"{100 * dense[kind]['right']:.1f}" for kind in ("answers", "choices")]
    made.add_row("dense", "", *rights, "", "", f"{dense['seconds']:.2f}")
    for way, one in result["ways"].items():
        made.add_row(
            way,
            f"{100 * one['reused']['mean']:.1f}",
            *(_changed(one[kind]) for kind in ("answers", "choices")),
            f"{one['kl']['mean']:.3f}",
            f"{100 * one['agrees']:.0f}",
            f"{one['seconds']:.2f}",
        )
    return made


def _changed(one: Mapping[str, float]) -> str:
    low, high = 100 * one["low"], 100 * one["high"]
    return f"{100 * one['right']:.1f} ({100 * one['value']:+.1f}, {low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
