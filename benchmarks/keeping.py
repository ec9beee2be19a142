"""What is left of a conversation in a small window: the newest turns, or notes too.

    python -m benchmarks.keeping
    python -m benchmarks.keeping --conversations 4 --window 512 --out results.json

Each conversation begins with a fact about the user and with a ban. The user then tells a text, a
few sentences at a time, and asks 12 to 20 questions that lean on earlier ones, with their right
answers. Judged are its last questions, and two more in place of the last one: what the fact was,
and what must not be spoken of. So what is asked was told early.

Ways: the *whole* conversation, *nothing* of it, and in one window and filled up to it, so with
equally many tokens, the newest turns (*recent*) or fewer of these and notes (*distilled*).
`choices`: of six answers the right one is the likeliest. `answers`: it is among the words that are
written greedily. `nats`: minus the logarithm of its likelihood. `shown`: it stands in the prompt.
Intervals are for paired differences. The first conversations (`--tuned`) were looked at when the
settings were chosen, so they do not count.

Each conversation is kept in a file when it is done, so a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import mean as average
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.documents import contains, repeated
from unspoken import Agent, AnchorPool, Backbone, Role, Settings
from unspoken.evaluation.result import about_machine
from unspoken.evaluation.statistics import difference, mean, wilson
from unspoken.files import sha256, write_text
from unspoken.runs import fields_of
from unspoken.sessions import Distilled, Exchange, Keep, Past, Recent, Window
from unspoken.sessions.conversing import ConversingAgent
from unspoken.types import TEXT

DATA = Path(__file__).parent / "data" / "conversations.jsonl"
ROLE = Role(
    "A talk between a user and a helper, who answers in a few words.\n\n",
    "User: {question}\nHelper:",
    chat=False,
)
SETTINGS = Settings(max_tokens=10)
FACTS = {
    "the code of my locker": ("4821", "7390", "1657", "3048", "9214", "5563"),
    "the name of my dog": ("Milo", "Rex", "Luna", "Oscar", "Bella", "Simba"),
    "the town where I was born": ("Lisbon", "Bergen", "Dublin", "Kyoto", "Quito", "Dresden"),
    "the colour of my door": ("green", "purple", "orange", "yellow", "silver", "brown"),
}
BANS = ("spiders", "hospitals", "my old boss", "politics", "the war", "my knee")
KINDS = ("late", "fact", "ban")
LATE, PIECE = 3, 50
BEGAN = datetime(2026, 1, 1)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=DATA)
    options.add_argument("--conversations", type=int, default=60, help="the first of the data")
    options.add_argument("--tuned", type=int, default=12, help="of these, how many do not count")
    options.add_argument("--window", type=int, default=512, help="positions, read and written")
    options.add_argument("--notes", type=float, default=Distilled().notes)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--kept", type=Path, default=Path("out/keeping.jsonl"))
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/keeping.json"))
    given = options.parse_args()
    torch.set_num_threads(1)
    model = Backbone.from_pretrained(given.model)
    agent = Agent("helper", model, role=ROLE, settings=SETTINGS)
    talks = read(given.data)[: given.conversations]
    rows: list[dict[str, Any]] = []
    for number in track(range(given.tuned, len(talks)), "conversations"):
        rows += measured(agent, talks[number], number, given)
    result = {
        "benchmark": "keeping",
        "data": {"conversations": given.data.name, "sha256": sha256(given.data)},
        "counted": [given.tuned, len(talks)],
        "window": given.window,
        "share of notes": given.notes,
        "seed": given.seed,
        **report(rows),
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")
    Console().print(table(result))


# -- what is asked ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A question after some turns, and the answers of which one is chosen, the right one first."""

    kind: str
    past: Past
    question: str
    choices: Sequence[str]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def probes(talk: Mapping[str, Any], number: int, seed: int) -> Iterator[Probe]:
    """What is asked at the end of a conversation."""
    draw = Random(f"{seed} {number}")
    thing = draw.choice(list(FACTS))
    facts, bans = (draw.sample(values, len(values)) for values in (FACTS[thing], BANS))
    told = [
        (f"Something about me: {thing} is {facts[0]}.", "I will remember that."),
        (f"Never speak of {bans[0]} with me.", "I will not."),
        *((f"Here is some of the text. {piece}", "I have read it.") for piece in pieces(talk)),
    ]
    turns = [(one["question"], one["answer"]) for one in talk["turns"]]
    answers = list(dict.fromkeys(answer for _, answer in turns))
    for at in range(len(turns) - LATE, len(turns)):
        question, right = turns[at]
        others = draw.sample([one for one in answers if one != right], min(5, len(answers) - 1))
        yield Probe("late", past_of([*told, *turns[:at]]), question, [right, *others])
    past = past_of([*told, *turns[:-1]])
    yield Probe("fact", past, f"What is {thing}?", facts)
    yield Probe("ban", past, "What may you not talk about?", bans)


def pieces(talk: Mapping[str, Any]) -> Iterator[str]:
    """The text, some sentences at a time: 50 words or more."""
    piece: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", talk["context"]):
        piece.append(sentence)
        if len(" ".join(piece).split()) >= PIECE:
            yield " ".join(piece)
            piece = []
    if piece:
        yield " ".join(piece)


def past_of(turns: Sequence[tuple[str, str]]) -> Past:
    return Past().after((), [Exchange(fields_of([asked]), said) for asked, said in turns])


# -- what is measured ------------------------------------------------------------------------------


def ways(window: int, notes: float) -> dict[str, tuple[int | None, Keep | None]]:
    """The positions and what is kept. Blocks would leave some of the window empty."""
    return {
        "whole": (None, None),
        "recent": (window, Recent(share=1)),
        "distilled": (window, Distilled(share=1, notes=notes)),
        "nothing": (None, None),
    }


def measured(
    agent: Agent, talk: Mapping[str, Any], number: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """The probes of a conversation, from what an earlier run has kept if it is there."""
    key = {
        "id": talk["id"],
        "window": given.window,
        "notes": given.notes,
        "seed": given.seed,
        "model": agent.model.spec.weights,
    }
    kept: Path = given.kept
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for row in known:
        if all(row[name] == key[name] for name in key):
            return row["probes"]
    model = AnchorPool("exact").wrap(agent.model)
    rows = [
        judged(agent, model, probe, ways(given.window, given.notes))
        for probe in probes(talk, number, given.seed)
    ]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a") as file:
        file.write(json.dumps({**key, "probes": rows}) + "\n")
    return rows


def conversing(agent: Agent, model: Any, way: str, past: Past, how: Any) -> ConversingAgent:
    positions, keep = how
    window = Window(BEGAN, positions, keep)
    past = Past() if way == "nothing" else past
    return ConversingAgent(agent, model, past, window, lambda left: None)


@torch.no_grad()
def judged(
    agent: Agent, model: Any, probe: Probe, every: Mapping[str, tuple[int | None, Keep | None]]
) -> dict[str, Any]:
    """What comes of a question in each way."""
    fields, found = fields_of([probe.question]), dict[str, Any]()
    choices = [f" {one}" for one in probe.choices]
    for way, how in every.items():
        reader = conversing(agent, model, way, probe.past, how)
        prompt = reader.conversation(reader.standing(fields, (), frozenset({TEXT})), fields, ())
        shown = "".join(one.words[0] for one in prompt.segments)  # pyright: ignore
        context = reader.read(fields).context
        nats = agent.model.score(repeated(context, len(choices)), choices)  # pyright: ignore
        words = agent.model.write(context, SETTINGS).words[0]
        found[way] = {
            "tokens": int(context.mask.sum()),
            "choices": int(nats.argmin()) == 0,
            "answers": contains(words.partition("\n")[0], probe.choices[:1]),
            "nats": float(nats[0]),
            "shown": contains(shown, probe.choices[:1]),
            "words": words,
        }
    return {"kind": probe.kind, "question": probe.question, "right": choices[0], "found": found}


# -- what came of it -------------------------------------------------------------------------------


def report(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By kind of question each way, and paired how it differs from the whole and from recent."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        own = [row["found"] for row in rows if row["kind"] == kind]
        found[kind] = {"n": len(own), "ways": {way: _way(own, way) for way in own[0]}}
        found[kind]["distilled against recent"] = _against(own, "distilled", "recent")
        found[kind]["recent against whole"] = _against(own, "recent", "whole")
        found[kind]["distilled against whole"] = _against(own, "distilled", "whole")
    return {"kinds": found}


def _way(rows: Sequence[Mapping[str, Any]], way: str) -> dict[str, Any]:
    own, n = [row[way] for row in rows], len(rows)
    found: dict[str, Any] = {"tokens": average(one["tokens"] for one in own)}
    for name in ("choices", "answers", "shown"):
        right = sum(one[name] for one in own)
        found[name] = {"right": right / n, **asdict(wilson(right, n))}
    return {**found, "nats": average(one["nats"] for one in own)}


def _against(rows: Sequence[Mapping[str, Any]], way: str, other: str) -> dict[str, Any]:
    pairs = [(row[way], row[other]) for row in rows]
    found: dict[str, Any] = {
        name: asdict(difference([a[name] for a, _ in pairs], [b[name] for _, b in pairs]))
        for name in ("choices", "answers", "shown")
    }
    return {**found, "nats": asdict(mean([a["nats"] - b["nats"] for a, b in pairs]))}


def table(result: Mapping[str, Any]) -> Table:
    made = Table(title=f"what is left in {result['window']} positions", box=box.SIMPLE_HEAD)
    for name in ("asked", "way", "tokens", "shown %", "choices %", "answers %", "nats"):
        made.add_column(name, justify="left" if name in ("asked", "way") else "right")
    for kind, found in result["kinds"].items():
        for way, one in found["ways"].items():
            rights = [f"{100 * one[name]['right']:.1f}" for name in ("shown", "choices", "answers")]
            label = f"{kind}, n = {found['n']}"
            made.add_row(label, way, f"{one['tokens']:.0f}", *rights, f"{one['nats']:.2f}")
        one = found["distilled against recent"]
        made.add_row("", "distilled - recent", "", *map(_changed, _points(one)), _nats(one))
        made.add_section()
    return made


def _points(one: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [one[name] for name in ("shown", "choices", "answers")]


def _changed(one: Mapping[str, float]) -> str:
    return f"{100 * one['value']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"


def _nats(one: Mapping[str, Any]) -> str:
    nats = one["nats"]
    return f"{nats['value']:+.2f} [{nats['low']:+.2f}, {nats['high']:+.2f}]"


if __name__ == "__main__":
    main()
