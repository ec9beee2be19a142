"""Write the packaged kinds of text `definitions`, `verses` and `handbook`, with gaps to fill.

    apt-get download wordnet-base bible-kjv bible-kjv-text debian-handbook
    for one in *.deb; do dpkg-deb -x "$one" unpacked; done
    python benchmarks/make_passages.py unpacked

The same packages (Debian 12) give the same files, byte for byte. Hashes decide which passages are
taken, in which split, and which words are asked for. A question quotes the words before the gap.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from unspoken.tasks import normalise

DATA = Path(__file__).parents[1] / "unspoken" / "tasks" / "data"
SIZES = {"train": 1500, "test": 200}
LENGTHS = {"definitions": (6, 40), "verses": (12, 45), "handbook": (30, 120)}
BEFORE, ASKED = 6, 3  # words that a question quotes, and the most words that it asks for
GLOSS = re.compile(r"^\d{8} \d\d n \w\w (\S+) .*? \| ([^;\"]+)")
VERSE = re.compile(r"^(\w+\d+:\d+) (.*)$")
PARAGRAPH = re.compile(r'<div class="para">(.*?)</div>', re.DOTALL)
TAG = re.compile(r"<[^>]+>")
SPACE = re.compile(r"\s+")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="into which the packages were unpacked")
    folder = options.parse_args().folder
    for kind, texts in (
        ("definitions", definitions(folder / "usr/share/wordnet/data.noun")),
        ("verses", verses(folder)),
        ("handbook", handbook(folder / "usr/share/doc/debian-handbook/html/en-US")),
    ):
        write(kind, texts)


def definitions(path: Path) -> Iterator[str]:
    """Nouns of WordNet and what they mean."""
    for line in path.read_text(encoding="ascii").splitlines():
        found = GLOSS.match(line)
        if found:
            yield f"{found[1].replace('_', ' ')}: {found[2].strip()}."


def verses(folder: Path) -> Iterator[str]:
    """The King James Bible, verse by verse."""
    command = [
        folder / "usr/bin/bible",
        "-f",
        "-l4000",
        "-p",
        folder / "usr/lib",
        "gen1:1-rev22:21",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        found = VERSE.match(line.strip())
        if found:
            yield found[2].strip()


def handbook(folder: Path) -> Iterator[str]:
    """Paragraphs of the Debian Administrator's Handbook."""
    for path in sorted(folder.glob("*.html")):
        for inside in PARAGRAPH.findall(path.read_text(encoding="utf-8")):
            yield SPACE.sub(" ", html.unescape(TAG.sub("", inside))).strip()


def write(kind: str, texts: Iterable[str]) -> None:
    low, high = LENGTHS[kind]
    fit = {normalise(text): text for text in texts if low <= len(text.split()) <= high}
    ordered = sorted(fit.values(), key=digest)
    items = [one for text in ordered if (one := item(kind, text))]
    for split, size in SIZES.items():
        chosen, items = items[:size], items[size:]
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in chosen)
        (DATA / f"{kind}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{kind} {split}: {len(chosen)}")


def item(kind: str, text: str) -> dict[str, Any] | None:
    """A passage with a gap that the words before it give away, and no other place of it."""
    words, draw = text.split(), Random(digest(text))
    quoted = min(BEFORE, len(words) - 2)
    begin = draw.randrange(len(words) - quoted)
    asked = words[begin + quoted :][: draw.randint(1, ASKED)]
    before, answer = " ".join(words[begin : begin + quoted]), " ".join(asked).strip('.,;:!?"()')
    if text.count(before) != 1 or not normalise(answer) or f"{before} {answer}" not in text:
        return None
    return {
        "id": f"{kind}-{digest(text)[:10]}",
        "context": text,
        "question": f"Which words come after “{before}”?",
        "answers": [answer],
    }


def digest(text: str) -> str:
    return sha256(normalise(text).encode()).hexdigest()


if __name__ == "__main__":
    main()
