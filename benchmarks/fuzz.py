"""Ten thousand changed messages: refused with the typed error, or whole and canonical.

    python benchmarks/fuzz.py --mutations 10000 --seed 0
    python benchmarks/fuzz.py --atheris      # also coverage-guided; needs: pip install atheris

Every kind of payload and packing is sent, signed and not, then changed: bits, cuts, insertions,
splices, header fields with the format kept, claims of size, fingerprints. A changed message that
was signed must be refused. One that was not may be a message still, of other content; then it must
say so in the same bytes, and a receiver whose weights it does not name must refuse it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import torch

from unspoken.errors import IncompatibleModels, WireError
from unspoken.types import CacheSegment, Spec, Spelling, Text, Vectors
from unspoken.wire import (
    LOSSLESS,
    BFloat16,
    Header,
    Int4,
    Int8,
    Layers,
    LowRank,
    Message,
    Seal,
    Tokens,
)

LIMIT = 1 << 20
"""Bytes that a reader allows; the samples have some kilobytes."""

WEIGHTS, TOKENIZER = "0123456789abcdef", "fedcba9876543210"
HEADER = Header(channel="text", sender="s", weights=WEIGHTS, tokenizer=TOKENIZER)
RECEIVER = Spec("receiver", 8, 3, 2, 4, WEIGHTS, TOKENIZER)


def samples() -> list[Message]:
    """A message of every kind of payload and packing."""
    torch.manual_seed(0)
    mask = torch.tensor([[False, True, True, True], [True] * 4])
    header = Header(
        channel="handoff",
        sender="planner",
        role="Plan.",
        task=("00" * 8, "11" * 8),
        step=1,
        weights=WEIGHTS,
        tokenizer=TOKENIZER,
        dtype="float32",
        receiver=WEIGHTS,
        receiver_tokenizer=TOKENIZER,
        shadow=("look up", "then left"),
    )
    cached = header.model_copy(update={"kinds": ("sliding", "full", "full"), "window": 16})
    kv = tuple((torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)) for _ in range(3))
    spelling = Spelling(("naïve", "北京 is"), torch.where(mask, 1, -1))
    memory = CacheSegment.of(kv, mask)
    packings = [BFloat16(), Int8(), Int4(), LowRank(rank=2), Layers(layers=(0, 2))]
    packings.append(Tokens(share=0.5))
    vectors = [
        Vectors(torch.randn(2, 4, 8).to(dtype), mask) for dtype in (torch.float32, torch.half)
    ]
    return [
        Message(header, Text(("look up", "naïve 北京 🙂"))),
        *(Message(header, payload) for payload in vectors),
        Message(cached, CacheSegment.of(kv, mask, spelling)),
        *(Message(cached, memory).pack(packing) for packing in (LOSSLESS, *packings)),
        Message(header, vectors[0]).pack(Int8()),
    ]


# -- changes ---------------------------------------------------------------------------------------


def mutated(data: Sequence[bytes], which: int, seed: int) -> bytes:
    """One of the messages, changed in a way that the seed draws."""
    return mutation(data, which, seed)[1]


def mutation(data: Sequence[bytes], which: int, seed: int) -> tuple[str, bytes]:
    """The name of a change, and the changed message."""
    rng = Random(seed)
    name = rng.choice(list(CHANGES))
    return name, CHANGES[name](data[which], data, rng)


def flip(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def grow(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    at = rng.choice((len(data), rng.randrange(len(data))))
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def blank(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    start, fill = rng.randrange(len(data)), rng.choice((b"\0", b"\xff", b"9", b"{"))
    size = min(rng.randint(1, 64), len(data) - start)
    return data[:start] + fill * size + data[start + size :]


def splice(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    other = rng.choice(every)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def claim(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    """A number of the header, be it a shape, an offset or a count, made huge."""
    start = _start(data)
    if rng.random() < 0.2:
        return data[:start] + rng.randrange(1 << 64).to_bytes(8, "little") + data[start + 8 :]
    numbers = list(re.finditer(rb"\d+", _frame(data)))
    found = rng.choice(numbers)
    return _reframed(data, found.span(), str(rng.choice(_HUGE)).encode())


def edit(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    """A field of header or layout, changed by somebody who keeps the format."""
    try:
        entries = json.loads(_frame(data))
        envelope = json.loads(entries["__metadata__"]["unspoken"])
    except (ValueError, KeyError):  # encrypted: nothing can be read there
        return flip(data, every, rng)
    part = rng.choice((envelope, envelope["header"], envelope["layout"]))
    name = rng.choice([*part, "surplus"])
    if rng.random() < 0.2:
        part.pop(name, None)
    else:
        part[name] = rng.choice(_VALUES)
    entries["__metadata__"]["unspoken"] = json.dumps(envelope, separators=(",", ":"))
    return _with_frame(data, entries)


def forge(data: bytes, every: Sequence[bytes], rng: Random) -> bytes:
    """Other weights or another tokenizer, in a header that is otherwise right."""
    old = rng.choice((WEIGHTS, TOKENIZER)).encode()
    at = [m.span() for m in re.finditer(old, data)]
    new = rng.randbytes(8).hex().encode()
    return data[: at[-1][0]] + new + data[at[-1][1] :] if at else flip(data, every, rng)


Change = Callable[[bytes, Sequence[bytes], Random], bytes]
CHANGES: dict[str, Change] = {
    "bits": flip,
    "cut": cut,
    "insertion": grow,
    "blank": blank,
    "splice": splice,
    "claim": claim,
    "edit": edit,
    "fingerprint": forge,
}
_HUGE = (0, 1, 2, 255, 1 << 16, 1 << 31, (1 << 31) + 1, 1 << 40, 1 << 63, 1 << 64, 10**30)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 1 << 31, 1 << 70, 0.5, float("nan"), float("inf")),
    *("", "x", "text", "x" * 5000, "\x00", "ü" * 300, "float64", "sliding"),
    *([], [0], [1, 2], [-1, 4], [3, 4], ["a", "b"], [1 << 31] * 2, [[[]]], {}),
    *({"kind": "tokens", "share": 1e-9}, {"kind": "low-rank", "rank": 1}, {"kind": "int4"}),
    {"kind": "layers", "layers": [1023]},
)


def _start(data: bytes) -> int:
    """Where the message begins behind a signature."""
    return 48 if data.startswith(b"unspoken signed") else 0


def _frame(data: bytes) -> bytes:
    start = _start(data)
    size = int.from_bytes(data[start : start + 8], "little")
    return data[start + 8 : start + 8 + size]


def _with_frame(data: bytes, entries: dict[str, Any]) -> bytes:
    start, old = _start(data), _frame(data)
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    tail = data[start + 8 + len(old) :]
    return data[:start] + len(raw).to_bytes(8, "little") + raw + tail


def _reframed(data: bytes, span: tuple[int, int], new: bytes) -> bytes:
    start, old = _start(data), _frame(data)
    raw = (old[: span[0]] + new + old[span[1] :]).rstrip(b" ")
    raw += b" " * (-len(raw) % 8)
    tail = data[start + 8 + len(old) :]
    return data[:start] + len(raw).to_bytes(8, "little") + raw + tail


# -- headers of a megabyte ------------------------------------------------------------------------


def hostile() -> dict[str, bytes]:
    """Headers of one megabyte or little less, each with much to parse, to name or to compute."""
    most = (1 << 20) - 8192

    def many(one: str, most: int = most) -> str:
        return ",".join([one] * (most // (len(json.dumps(one)) - 1)))

    keys = ",".join(f'"{n:05x}":0' for n in range(most // 12))
    layer = '{"count":1,"heads":0,"widths":[4,4],"dtypes":["float32","float32"]}'
    rows = ",".join(["1"] * (1 << 16))
    cache = f'"kind":"memory","length":1,"layers":[{",".join([layer] * 1024)}],"positions":[{rows}]'
    edits: dict[str, tuple[str, str]] = {
        "wrong tasks": ('"task":[]', f'"task":[{many("0")}]'),
        "empty lists": ('"task":[]', f'"task":[{many("[]")}]'),
        "empty objects": ('"task":[]', f'"task":[{many("{}")}]'),
        "fractions": ('"task":[]', f'"task":[{many("1.5")}]'),
        "digits": ('"step":1', f'"step":{"1" * most}'),
        "depth": ('"task":[]', f'"task":{"[" * most}'),
        "unknown fields": ('"step":1', f'"step":1,{keys}'),
        "one field again": ('"step":1', many('"step":1')),
        "no such kind": ('"kind":"text"', f'"kind":"{"x" * most}"'),
        "rows": ('"words":[2]', f'"words":[{many("0")}]'),
        "negative rows": ('"words":[2]', f'"words":[{many("-1")}]'),
        "layers": ('"kind":"text","words":[2]', f'{cache[:100]},"x":[{many("[0]")}]'),
        "no layers": ('"layout":{', f'"layout":{{"layers":[{many("0")}],'),
        "packings": (
            '"kind":"text","words":[2]',
            f'"packing":{{"kind":"layers","layers":[{many("0", most >> 2)}]}},{cache}',
        ),
        "layers of rows": (
            '"kind":"text","words":[2]',
            f'"packing":{{"kind":"low-rank","rank":1}},{cache}',
        ),
        "shadow": ('"step":1', f'"step":1,"shadow":["{"🙂" * (1 << 15)}"]'),
        "no words": ('"step":1', f'"step":1,"role":"🙂{"x" * (most - 64)}"'),
        "escapes": ('"step":1', '"step":1,"role":"' + "\\u00e9" * (most // 8) + '"'),
    }
    plain = (
        '{"version":2,"header":{"channel":"text","sender":"s","task":[],"step":1,"weights":"",'
        '"tokenizer":""},"layout":{"kind":"text","words":[2]}}'
    )
    found = {name: _headed(plain.replace(*edit)) for name, edit in edits.items()}
    found["no message"] = _framed(b'{"__metadata__":{},' + keys.encode() + b"}")
    found["tensors"] = _framed(_json(plain)[:-1] + b"," + keys.encode() + b"}")
    return found


def _headed(words: str) -> bytes:
    return _framed(_json(words))


def _json(words: str) -> bytes:
    entries = {"__metadata__": {"unspoken": words}}
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()


def _framed(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw + b"hi"


def costs(limit: int = 2 << 20) -> dict[str, dict[str, float]]:
    """What refusing each hostile header takes: bytes at the peak, and seconds of the processor.

    In a process that has read a message before. Only Linux can say the peak of a single call.
    """
    Message.from_bytes(samples()[0].to_bytes())
    found: dict[str, dict[str, float]] = {}
    for name, data in hostile().items():
        before, began = reset_peak(), process_time()
        try:
            Message.from_bytes(data, limit=limit)
            end = 0.0
        except WireError as error:
            end = float(len(str(error)))
        found[name] = {
            "bytes": peak_now() - before,
            "seconds": process_time() - began,
            "letters": end,
        }
    return found


def reset_peak() -> int:
    """Begin to count the peak of this process's memory anew. What it has now, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")
    return peak_now()


def peak_now() -> int:
    """The most memory since `reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) * 1024


# -- what becomes of them --------------------------------------------------------------------------


def outcome(data: bytes, original: Sequence[bytes], seal: Seal | None) -> str:
    """What a reader does with changed bytes, in a word."""
    if data in original:
        return "unchanged"
    try:
        message = Message.from_bytes(data, seal, limit=LIMIT)
    except WireError:
        return "refused"
    if seal is not None:
        return "ACCEPTED THOUGH SIGNED"
    if message.to_bytes() != data or len(data) != message.nbytes:
        return "NOT CANONICAL"
    header = message.header
    named = (header.receiver, header.receiver_tokenizer)
    try:
        _accept(message)
    except IncompatibleModels:
        return "refused by the receiver"
    told = all(name in ("", own) for name, own in zip(named, (WEIGHTS, TOKENIZER), strict=True))
    return "read, other content" if told else "ACCEPTED FOR OTHER WEIGHTS"


def _accept(message: Message) -> None:
    from unspoken.channels import make_channel
    from unspoken.channels.base import Channel

    held = make_channel("text")
    held.__class__ = type("Held", (type(held),), {"name": "handoff", "carries": Channel.carries})
    held.accept(message, RECEIVER)


def attack(mutations: int, seed: int, seal: Seal | None) -> dict[str, dict[str, int]]:
    """Counts by change and outcome; an exception of another type is a crash and named so."""
    original = [message.to_bytes(seal) for message in samples()]
    found: dict[str, Counter[str]] = {name: Counter() for name in CHANGES}
    for n in range(mutations):
        name, data = mutation(original, n % len(original), seed * 1_000_003 + n)
        try:
            end = outcome(data, original, seal)
        except Exception as error:
            end = f"CRASH {type(error).__name__}: {str(error)[:80]}"
        found[name][end] += 1
    return {name: dict(counts) for name, counts in found.items()}


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--mutations", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--atheris", action="store_true", help="coverage-guided as well")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/fuzz.json"))
    options.add_argument("--guided", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.guided:
        guided(given.guided, given.mutations, given.seed)
        return
    from unspoken.evaluation.result import about_machine

    seals = {"plain": None, "signed": Seal(sign=bytes(32)), "encrypted": Seal(encrypt=bytes(32))}
    attack(200, given.seed + 1, None)  # load all that is loaded once
    before = peak()
    result: dict[str, Any] = {
        "benchmark": "fuzz",
        "mutations": given.mutations,
        "seed": given.seed,
        "limit_bytes": LIMIT,
        "samples": len(samples()),
        "outcomes": {
            name: attack(given.mutations, given.seed, seal) for name, seal in seals.items()
        },
    }
    ends = [e for kinds in result["outcomes"].values() for c in kinds.values() for e in c]
    result["bad"] = sorted({end for end in ends if end.split()[0].isupper()})
    result["peak_bytes_added"] = peak() - before
    result["hostile_headers"] = costs()
    if given.atheris:
        result["atheris"] = by_coverage(given.mutations, given.seed)
    result |= about_machine()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["bad"] or result.get("atheris", {}).get("exit") else 0)


# -- coverage-guided -------------------------------------------------------------------------------


def by_coverage(runs: int, seed: int) -> dict[str, Any]:
    """Let atheris look for inputs; libFuzzer ends its process, so it has one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for n, message in enumerate(samples()):
            (Path(folder) / f"{n}").write_bytes(message.to_bytes())
        command = [sys.executable, __file__, "--guided", folder, "--mutations", str(runs)]
        done = subprocess.run(
            [*command, "--seed", str(seed)], capture_output=True, text=True, env=os.environ
        )
    told = re.search(r"Done (\d+)", done.stderr)
    return {
        "runs": int(told[1]) if told else 0,
        "exit": done.returncode,
        "told": "" if told and not done.returncode else done.stderr[-2000:],
    }


def guided(folder: Path, runs: int, seed: int) -> None:
    import atheris

    atheris.instrument_func(Message.from_bytes.__func__)
    for module in ("codec", "header", "message", "payload", "compression"):
        for value in list(vars(sys.modules[f"unspoken.wire.{module}"]).values()):
            if getattr(value, "__module__", "") == f"unspoken.wire.{module}" and hasattr(
                value, "__code__"
            ):
                atheris.instrument_func(value)

    def one(data: bytes) -> None:
        try:
            message = Message.from_bytes(data, limit=LIMIT)
        except WireError:
            return
        assert message.to_bytes() == data

    atheris.Setup([__file__, f"-atheris_runs={runs}", f"-seed={seed + 1}", str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
