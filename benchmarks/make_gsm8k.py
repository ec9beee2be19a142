"""Write the packaged task `gsm8k`: sums in words, the story apart from its question. MIT licence.

    git clone https://github.com/openai/grade-school-math
    python benchmarks/make_gsm8k.py grade-school-math/grade_school_math/data

The same commit (3101c7d) gives the same files, byte for byte. Test items come from the test file,
training items from the training file; no two items share a story or a question.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from unspoken.tasks import normalise

DATA = Path(__file__).parents[1] / "unspoken" / "tasks" / "data"
SIZES = {"test": 400, "train": 800}
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
NUMBER = re.compile(r"#### (-?[\d,]+)$")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="with train.jsonl and test.jsonl")
    folder, seen = options.parse_args().folder, set[str]()
    for split, size in SIZES.items():
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        items = [item(split, n, json.loads(line)) for n, line in enumerate(lines)]
        chosen = distinct(sorted(filter(None, items), key=by_hash), seen)[:size]
        assert len(chosen) == size, f"only {len(chosen)} items of {split} are fit"
        seen |= {normalise(one[key]) for one in chosen for key in ("context", "question")}
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in chosen)
        (DATA / f"gsm8k_{split}.jsonl").write_text(text, encoding="utf-8")


def item(split: str, number: int, record: dict[str, str]) -> dict[str, Any] | None:
    """A story of at least one sentence, and the question at its end, if it ends with one."""
    *story, question = SENTENCE.split(record["question"].strip())
    found = NUMBER.search(record["answer"])
    if not story or not question.endswith("?") or found is None:
        return None
    return {
        "id": f"gsm8k-{split}-{number}",
        "context": " ".join(story),
        "question": question,
        "answers": [found[1].replace(",", "")],
    }


def by_hash(one: dict[str, Any]) -> str:
    return hashlib.sha256(normalise(one["context"]).encode()).hexdigest()


def distinct(items: list[dict[str, Any]], seen: set[str]) -> list[dict[str, Any]]:
    """Those whose story and question no earlier item has, nor any of `seen`."""
    found, known = list[dict[str, Any]](), set(seen)
    for one in items:
        keys = {normalise(one["context"]), normalise(one["question"])}
        if known.isdisjoint(keys):
            found.append(one)
            known |= keys
    return found


if __name__ == "__main__":
    main()
