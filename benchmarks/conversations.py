"""What a conversation costs, and what is left when a run is given up.

    python benchmarks/conversations.py
    python benchmarks/conversations.py --turns 20 --sessions 1000 --cancelled 100 --out results.json

Three parts. *Turns*: one conversation in a session, and beside it plain `generate` of transformers,
which reads the whole chat again for each answer. Answers are compared word for word, and so are the
seconds to the first word. *Sessions*: many conversations of one pipeline with room for the caches
of a few. The bytes that are held are looked at after each run. Some conversations go on afterwards,
beside plain `generate`. *Cancelled*: runs that are closed at random moments while they read and
while they write. Forward passes that begin after that are counted, and threads that are left.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from unspoken import Agent, AnchorPool, Backbone, Pipeline, Role, Settings
from unspoken.evaluation.result import about_machine
from unspoken.events import RunEnded, WordsWritten
from unspoken.files import write_text

INSTRUCTIONS = "You are a helpful guide. Answer in two sentences."
TOPICS = (
    "the Alps", "the sea", "old bridges", "bread", "clocks", "the moon", "paper", "glass", "salt",
    "the violin", "windmills", "maps", "tea", "wool", "trains", "snow", "lighthouses", "bees",
    "letters", "stone walls", "rivers", "ink", "copper", "gardens",
)  # fmt: skip
ASKED = (
    "Tell me something about {}. What should a visitor look for first, and why does it matter?",
    "How is that different for {}? Please compare the two in plain words for a child of ten.",
    "And what would you say about {} to somebody who has read all that you said before?",
)


PARTS = ("turns", "sessions", "cancelled")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--turns", type=int, default=20)
    options.add_argument("--sessions", type=int, default=1000)
    options.add_argument("--cancelled", type=int, default=100)
    options.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="a JSON file for the numbers, part by part")
    given = options.parse_args()
    torch.set_num_threads(1)
    model = Backbone.from_pretrained(given.model, dtype="float32")
    known = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    found: dict[str, Any] = known | {
        "machine": about_machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "model": given.model,
        "seed": given.seed,
    }
    for name, part in (
        ("turns", lambda: of_turns(model, given.turns)),
        ("sessions", lambda: of_sessions(model, given.sessions, given.seed)),
        ("cancelled", lambda: of_cancelled(model, given.cancelled, given.seed)),
    ):
        if name not in given.parts:
            continue
        found[name] = part()
        print(name, json.dumps(found[name] | {"rows": "..."}))
        if given.out:
            write_text(given.out, json.dumps(found, indent=1) + "\n")


def questions(count: int) -> list[str]:
    return [ASKED[n % len(ASKED)].format(TOPICS[n % len(TOPICS)]) for n in range(count)]


def guide(model: Backbone, tokens: int) -> Pipeline:
    role = Role(INSTRUCTIONS)
    return Pipeline([Agent("guide", model, role=role, settings=Settings(max_tokens=tokens))])


class First(BaseStreamer):
    """Notes when the first token came."""

    def __init__(self) -> None:
        self.start, self.seconds, self.put_ = perf_counter(), 0.0, 0

    def put(self, value: Any) -> None:
        self.put_ += 1
        if self.put_ == 2:  # the prompt comes first
            self.seconds = perf_counter() - self.start

    def end(self) -> None: ...


def plain(
    model: Backbone, turns: Sequence[tuple[Any, str]], question: str, tokens: int
) -> tuple[str, int, float]:
    """The answer of transformers alone, the tokens that it read, the seconds to the first."""
    chat = [{"role": "system", "content": INSTRUCTIONS}]
    for asked, said in turns:
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    chat.append({"role": "user", "content": question})
    clock = First()
    words = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([model.tokenizer(words, add_special_tokens=False)["input_ids"]])
    out = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
        streamer=clock, eos_token_id=list(model.ends), pad_token_id=model.ends[0],
    )  # fmt: skip
    answer = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return answer.strip(), ids.shape[1], clock.seconds


def of_turns(model: Backbone, count: int, tokens: int = 64) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    with guide(model, tokens).session() as talk:
        for question in questions(count):
            before, first, start = talk.turns, 0.0, perf_counter()
            for event in talk.stream(question):
                if isinstance(event, WordsWritten):
                    first = first or perf_counter() - start
                if isinstance(event, RunEnded):
                    run = event.run
            answer, read, dense = plain(model, before, question, tokens)
            rows.append(
                {
                    "same": answer == run.answer,
                    "prompt": read,
                    "read": run.usage.read,
                    "reused": run.usage.reused,
                    "written": run.usage.written,
                    "first_word": round(first, 4),
                    "first_word_dense": round(dense, 4),
                }
            )
    last = rows[-1]
    return {
        "turns": count,
        "same": sum(row["same"] for row in rows),
        "times_shorter_at_last": round(last["first_word_dense"] / last["first_word"], 1),
        "rows": rows,
    }


def of_sessions(model: Backbone, count: int, seed: int, tokens: int = 4) -> dict[str, Any]:
    budget, draw = 256 << 20, Random(seed)
    pool, pipeline = AnchorPool("exact", budget=budget), guide(model, tokens)
    talks = [pipeline.session(pool=pool) for _ in range(count)]
    most, before = 0, _resident()
    for n, talk in enumerate(talks):
        talk.run(f"My number is {n}. {questions(24)[n % 24]}")
        most = max(most, pool.nbytes)
    grown = _resident() - before
    again = draw.sample(range(count), min(20, count))
    same = reused = 0
    for n in again:
        told = talks[n].turns
        run = talks[n].run("What is my number?")
        same += run.answer == plain(model, told, "What is my number?", tokens)[0]
        reused += run.usage.reused > 0
    return {
        "sessions": count,
        "budget": budget,
        "most_bytes": most,
        "resident_grown": grown,
        "asked_again": len(again),
        "same": same,
        "still_cached": reused,
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def of_cancelled(model: Backbone, count: int, seed: int) -> dict[str, Any]:
    """Half are closed after a random time of reading, half after some pieces of the answer."""
    draw, begun = Random(seed), [0]
    role = Role(INSTRUCTIONS, "{context}\n\n{question}")
    pipeline = Pipeline([Agent("guide", model, role=role, settings=Settings(max_tokens=24))])
    text = " ".join(questions(24) * 4)
    query = {"context": text, "question": "What was said of bees?"}
    plain_forward = model.model.base_model.forward

    def forward(*args: Any, **given: Any) -> Any:
        begun[0] += 1
        return plain_forward(*args, **given)

    pipeline.run(query)  # proofs come first
    model.model.base_model.forward = forward
    start = perf_counter()
    whole = pipeline.run(query).answer
    seconds, passes, before = perf_counter() - start, begun[0], set(threading.enumerate())
    talk = pipeline.session()
    after, took, ended = list[int](), list[float](), dict[str, int]()
    for n in range(count):
        stream = talk.stream(query if n % 2 else {**query, "context": TOPICS[n % 24]})
        if n % 2:
            next(stream)
            threading.Event().wait(draw.uniform(0, 0.9 * seconds))
        else:
            written = (event for event in stream if isinstance(event, WordsWritten))
            for _ in range(draw.randrange(1, 10)):
                next(written)
        at, start = begun[0], perf_counter()
        stream.close()
        took.append(perf_counter() - start)
        after.append(begun[0] - at)
        run = stream.run
        where = (
            "failed"
            if run is None
            else "over"
            if run.finish != "cancelled"
            else ("writing" if run.usage.written else "reading")
        )
        ended[where] = ended.get(where, 0) + 1
    talk._caches.pool.check()  # pyright: ignore
    same = talk.run(query).answer == whole
    del model.model.base_model.forward
    return {
        "cancelled": count,
        "prompt": len(model.tokens(text)),
        "passes_of_a_whole_run": passes,
        "seconds_of_a_whole_run": round(seconds, 3),
        "ended_in": ended,
        "most_passes_begun_after": max(after),
        "seconds_until_over": {"median": round(median(took), 3), "most": round(max(took), 3)},
        "threads_left": len(set(threading.enumerate()) - before),
        "turns_kept": len(talk.turns) - 1,
        "answers_as_before": same,
    }


if __name__ == "__main__":
    main()
