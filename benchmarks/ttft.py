"""Time to the first token when agents share context: dense reads beside pools of caches.

    python benchmarks/ttft.py
    python benchmarks/ttft.py --shapes 3x512 --requests 3 --free 1
    python benchmarks/ttft.py --shapes 3x32 3x64 3x128 --prefix 32 --requests 6

N fully connected agents: each reads a lead of its own, the user's text and the words of all agents
before it. All ways take turns in one process on the same prompts: the dense reader's words are what
every agent is told, so that differences do not add up over a request. A pool keeps the caches of
these words as decoding in its own context gives them. The time to the first token is that of
`Model.read`, keeping included, and of the first step of decoding. Texts are sentences of the
SQuAD test file; leads are made of its training file. The first requests fill the pools and are not
counted; the first one of all reads densely.

Quality, against a dense read of the same prompt: KL of the next token and mean KL over 32 tokens in
nats, agreement of the likeliest token over 32 tokens of the dense answer (forced), and over 32
tokens written freely, compared place by place. All calls count, and once more those that were
served with moved caches alone: a way that reads most calls densely errs little over all of them.

The limit at the last agent: the reused cache copied once at the bandwidth of a large copy, and the
other tokens read with nothing before them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress, cycle, islice
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from batching import bandwidth
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unspoken import Backbone, Settings
from unspoken.anchors import LADDERS, AnchorPool, Ladder
from unspoken.backbone.caches import fresh_cache, kept
from unspoken.evaluation.result import about_machine
from unspoken.files import write_text
from unspoken.protocols import Model
from unspoken.tasks import packaged
from unspoken.types import Context, Prompt, Text, Words

SEEN = 32
"""Tokens of the answer over which quality is measured."""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--shapes", nargs="+", default=["5x1024"], help="agents x user tokens")
    options.add_argument("--prefix", type=int, default=512, help="tokens of each agent's lead")
    options.add_argument("--written", type=int, default=64, help="tokens that each agent writes")
    options.add_argument("--requests", type=int, default=20)
    options.add_argument("--warm", type=int, default=3, help="requests before, not counted")
    options.add_argument("--free", type=int, default=4, help="requests in which ways write freely")
    options.add_argument("--shares", type=float, nargs="*", default=[], help="recomputed, as ways")
    options.add_argument("--ways", nargs="+", default=list(LADDERS), choices=list(LADDERS))
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--budget", type=float, default=4.0, help="GiB of each pool")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/ttft.json"))
    given = options.parse_args()
    model = Forced.from_pretrained(given.model)
    assert isinstance(model, Forced)
    model.model.generation_config.eos_token_id = None  # every agent writes to the limit
    ladders = {name: LADDERS[name] for name in given.ways}
    ladders |= {f"share {s:g}": replace(LADDERS["shifted"], share=s) for s in given.shares}
    cases: list[dict[str, Any]] = []
    for shape in given.shapes:
        agents, user = map(int, shape.split("x"))
        bench = Bench(model, agents, given.prefix, user, given.written)
        budget = int(given.budget * 2**30)
        found = bench.run(ladders, given.warm, given.requests, given.free, budget)
        cases.append({"agents": agents, "prefix": given.prefix, "user": user, **found})
        Console().print(table(cases[-1]))
    result = {
        "benchmark": "ttft",
        "written": given.written,
        "requests": given.requests,
        "warm": given.warm,
        "free": given.free,
        "ladders": {name: asdict(ladder) for name, ladder in ladders.items()},
        "cases": cases,
        "models": [{"name": model.name, "fingerprint": model.fingerprint}],
        **about_machine(),
    }
    write_text(given.out, json.dumps(result, indent=1) + "\n")


class Forced(Backbone):
    """A backbone that writes what it is told, and notes what it would have written.

    answer: the ids (n,) to write, or None to write freely. logits: (n, V) of the last answer.
    """

    answer: Tensor | None = None
    logits: Tensor | None = None

    @torch.no_grad()
    def write(
        self, context: Context, settings: Settings = Settings(), on_text: Any = None, **ahead: Any
    ) -> Words:
        if self.answer is None:
            return super().write(context, settings, on_text, **ahead)
        first = super().write(context, replace(settings, max_tokens=1), **ahead)
        given = torch.cat((context.last, self.answer[:-1]))[None]
        mask = torch.cat((context.mask, context.mask.new_ones(1, len(self.answer) - 1)), 1)
        cache = fresh_cache(context.kv)
        out = self.model(input_ids=given, attention_mask=mask.long(), past_key_values=cache)
        self.logits = out.logits[0]
        ids = tuple(self.answer.tolist())
        words = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Words((words,), (len(ids),), len(ids), (ids,), kept(cache), first.wait)


@dataclass
class Seen:
    """What one way did: seconds of each agent; of each call the tokens read, and all tokens.

    moved: whether a call was served with moved caches.
    """

    seconds: list[list[float]]
    read: list[tuple[int, int]] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    kl_all: list[float] = field(default_factory=list)
    agrees: list[float] = field(default_factory=list)
    free: list[tuple[float, bool]] = field(default_factory=list)


class Bench:
    """One shape: so many agents, a lead of `prefix` tokens each, a user's text of `user` tokens."""

    def __init__(self, model: Forced, agents: int, prefix: int, user: int, written: int) -> None:
        self.model, self.agents, self.user, self.written = model, agents, user, written
        train, test = packaged("squad_sentence")
        self.told = Sentences(model, [item.context for item in test])
        leads = Sentences(model, [item.context for item in train])
        self.leads = [f"You are agent {n}. {leads.take(prefix - 8)}\n\n" for n in range(agents)]

    def prompt(self, agent: int, user: str, answers: Sequence[str]) -> Prompt:
        parts: list[Text] = [Text((self.leads[agent],), shared=True)]
        parts.append(Text((f"{user}",), share="user"))
        for n, answer in enumerate(answers):
            parts.append(Text((f"\n\nAgent {n} says:",)))
            parts.append(Text((f" {answer.strip()}",), share=f"agent {n}"))
        parts.append(Text((f"\n\nAgent {agent} says:",)))
        return Prompt(tuple(parts))

    def run(
        self, ladders: dict[str, Ladder], warm: int, requests: int, free: int, budget: int
    ) -> dict[str, Any]:
        pools = {name: AnchorPool(ladder, budget=budget) for name, ladder in ladders.items()}
        readers: dict[str, Model] = {"dense": self.model}
        readers |= {name: pool.wrap(self.model) for name, pool in pools.items()}
        seen = {name: Seen([[] for _ in range(self.agents)]) for name in readers}
        with Progress(console=Console(stderr=True), transient=True) as bar:
            work = bar.add_task(f"{self.agents} agents, {self.user} tokens", total=warm + requests)
            for n in range(-warm, requests):
                self.request(readers, seen, counts=n >= 0, free=0 <= n < free)
                bar.advance(work)
        rate = bandwidth(self.model.device)
        found = {name: self.summary(seen[name], seen["dense"]) for name in readers}
        for name, pool in pools.items():
            found[name]["pool_bytes"] = dict(pool.state().bytes)
            found[name] |= self.limit(seen[name], rate)
            pool.check()
        return {"bandwidth": rate, "ways": found}

    @torch.no_grad()
    def request(
        self, readers: dict[str, Model], seen: dict[str, Seen], *, counts: bool, free: bool
    ) -> None:
        """One request: every way reads every agent's prompt, and is told the dense answer."""
        user, answers, dense = self.told.take(self.user), list[str](), torch.zeros(0)
        settings = Settings(max_tokens=self.written)
        for agent in range(self.agents):
            prompt, told = self.prompt(agent, user, answers), torch.zeros(0)
            for way, reader in readers.items():
                start = perf_counter()
                read = reader.read(prompt)
                self.wait()
                seconds, context = perf_counter() - start, read.context
                if way == "dense":
                    self.model.answer = None
                    words = self.model.write(context, settings)
                    told = torch.tensor(words.ids[0], device=self.model.device)
                    answers.append(words.words[0])
                self.model.answer = told
                forced = reader.write(context, settings)
                assert self.model.logits is not None
                dense = self.model.logits if way == "dense" else dense
                if counts:
                    note, total = seen[way], int(context.mask.sum())
                    note.seconds[agent].append(seconds + forced.wait)
                    note.read.append((read.tokens[0] if read.served else total, total))
                    note.moved.append(any(s.shifted or s.anchored for s in read.served))
                    self.compare(note, dense, self.model.logits)
                    if free and way != "dense":
                        self.model.answer = None
                        short = Settings(max_tokens=SEEN)
                        wrote = self.model.write(context, short).ids[0]
                        same = [a == b for a, b in zip(wrote, told.tolist(), strict=False)]
                        note.free.append((mean(same), note.moved[-1]))

    def compare(self, note: Seen, dense: Tensor, logits: Tensor) -> None:
        p, q = (torch.log_softmax(x[:SEEN].float(), -1) for x in (dense, logits))
        kl = (p.exp() * (p - q)).sum(-1)
        note.kl.append(float(kl[0]))
        note.kl_all.append(float(kl.mean()))
        note.agrees.append(float((p.argmax(-1) == q.argmax(-1)).float().mean()))

    def summary(self, note: Seen, dense: Seen) -> dict[str, Any]:
        times = [median(agent) for agent in note.seconds]
        usual = [median(agent) for agent in dense.seconds]
        whole, other = (median(map(sum, zip(*x.seconds, strict=True))) for x in (note, dense))
        found: dict[str, Any] = {
            "ttft_seconds": times,
            "faster": [b / a for a, b in zip(times, usual, strict=True)],
            "request_seconds": whole,
            "request_faster": other / whole,
            "tokens_read_last": median(
                read for read, _ in note.read[self.agents - 1 :: self.agents]
            ),
            "tokens_reused": 1 - sum(r for r, _ in note.read) / sum(n for _, n in note.read),
            "calls_reused": mean(read < length - 16 for read, length in note.read),
            "calls_moved": mean(note.moved),
            "all_calls": quality(note, [True] * len(note.moved)),
        }
        return {**found, "moved_calls": quality(note, note.moved)} if any(note.moved) else found

    def limit(self, note: Seen, rate: float) -> dict[str, float]:
        """Seconds that the last agent needs at least, and how far above them it is."""
        read, length = note.read[-1]
        spec = self.model.spec
        width = 2 * spec.layers * spec.kv_heads * spec.head_dim * self.model.dtype.itemsize
        copied = 2 * width * (length - read) / rate
        best = copied + self.read_seconds(read)
        return {"limit_seconds": best, "over_limit": median(note.seconds[-1]) / best}

    def read_seconds(self, tokens: int) -> float:
        """A dense read of so many tokens with nothing before them."""
        ids = torch.randint(1000, 20000, (1, tokens), device=self.model.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return self.timed(lambda: self.model.extend((), ids, mask, layers=self.model.spec.layers))

    @torch.no_grad()
    def timed(self, way: Any) -> float:
        seconds: list[float] = []
        for _ in range(6):
            start = perf_counter()
            way()
            self.wait()
            seconds.append(perf_counter() - start)
        return median(seconds[1:])

    def wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def quality(note: Seen, which: Sequence[bool]) -> dict[str, float]:
    """Means over the calls that are named, and how many they are."""

    def over(values: Sequence[float]) -> float:
        return mean(compress(values, which))

    free = [same for same, moved in note.free if moved or all(which)]
    found = {
        "n": sum(which),
        "kl_first": over(note.kl),
        "kl": over(note.kl_all),
        "agreement": over(note.agrees),
    }
    return {**found, "agreement_free": mean(free), "n_free": len(free)} if free else found


class Sentences:
    """Running text out of sentences, cut to a number of tokens."""

    def __init__(self, model: Backbone, sentences: Sequence[str]) -> None:
        self.model, self.rest = model, cycle(dict.fromkeys(sentences))

    def take(self, tokens: int) -> str:
        words = ""
        while len(self.model.tokens(words)) < tokens:
            words += " ".join(islice(self.rest, 4)) + " "
        return self.model.tokenizer.decode(self.model.tokens(words)[:tokens])


def table(case: dict[str, Any]) -> Table:
    """The table for a terminal."""
    title = f"{case['agents']} agents, lead {case['prefix']}, user {case['user']} tokens"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in (
        *("way", "first", "last", "faster", "request", "faster ", "limit", "read", "reused"),
        *("moved", "KL 1", "KL 32", "agree", "free", "MB"),
    ):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, way in case["ways"].items():
        pool, served = way.get("pool_bytes", {}), way.get("moved_calls", way["all_calls"])
        free = served.get("agreement_free")
        shown.add_row(
            name,
            f"{way['ttft_seconds'][0]:.2f}",
            f"{way['ttft_seconds'][-1]:.3f}",
            f"{way['faster'][-1]:.1f}",
            f"{way['request_seconds']:.2f}",
            f"{way['request_faster']:.1f}",
            f"{way['over_limit']:.2f}" if "over_limit" in way else "",
            f"{way['tokens_read_last']:.0f}",
            f"{way['tokens_reused']:.0%}",
            f"{way['calls_moved']:.0%}",
            f"{served['kl_first']:.4f}",
            f"{served['kl']:.4f}",
            f"{served['agreement']:.1%}",
            f"{free:.0%}" if free is not None else "",
            f"{sum(pool.values()) / 1e6:,.0f}",
        )
    return shown


if __name__ == "__main__":
    main()
