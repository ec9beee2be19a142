"""What a comparison has answered already is not asked again, and what is damaged is."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.bench import Bench, Counter, items, run_study, write
from unspoken.backbone import Backbone
from unspoken.errors import (
    StorageError,
)
from unspoken.files import sha256
from unspoken.pipeline import Pipeline
from unspoken.studies.comparison import Report, compare


def without_time(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what may differ from run to run: times, and the places of equal files."""
    task = results["task"]
    hashes = {name: origin["sha256"] for name, origin in task["files"].items()}
    arms = [{**arm, "timed": None} for arm in results["arms"]]
    known = {**results, "notes": None, "arms": arms, "task": {**task, "files": hashes}}
    return {name: value for name, value in known.items() if name != "sha256"}


def test_a_second_run_computes_nothing_and_finds_the_same(copied: Bench, counter: Counter) -> None:
    before, kept = copied.results(), copied.predictions()
    run_study("comparison", copied.recipe())
    assert (counter.passes, counter.arms, counter.fits) == (0, [], [])
    assert without_time(copied.results()) == without_time(before)
    assert copied.predictions() == kept


def test_a_run_elsewhere_finds_the_same(
    finished: tuple[Bench, Report], bench: Bench, counter: Counter
) -> None:
    run_study("comparison", bench.recipe())
    assert counter.passes > 0
    assert counter.fits == ["reader", "projector, words", "projector, answers", "constant"]
    for one, two in zip(finished[0].results()["arms"], bench.results()["arms"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    weights = [
        sorted((path.name, sha256(path)) for path in out.glob("trained/*/model.safetensors"))
        for out in (finished[0].out, bench.out)
    ]
    assert weights[0] == weights[1]


def test_other_items_are_answered_anew(copied: Bench, counter: Counter) -> None:
    run_study("comparison", copied.recipe("comparison.limit=5"))
    assert not counter.fits
    assert len(counter.arms) == 13  # of 16 arms, as three `none` are another channel's too
    assert {arm["n"] for arm in copied.results()["arms"]} == {5}


def test_a_corrected_answer_is_scored_anew(copied: Bench) -> None:
    name = "full-text-matched.jsonl"
    first = json.loads(copied.predictions()[name].decode().split("\n")[0])
    rows = items("test", 9)
    for row in rows:
        if row["id"] == first["id"]:
            row["answers"] = [first["prediction"] or "x", "and more"]
    write(copied.test, rows)
    run_study("comparison", copied.recipe("comparison.channels=[full-text]"))
    again = json.loads(copied.predictions()[name].decode().split("\n")[0])
    assert again["answers"][1] == "and more"
    assert again["prediction"] == first["prediction"]


def test_ctrl_c_leaves_finished_arms_and_a_rerun_completes(
    bench: Bench, finished: tuple[Bench, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0].out / "trained", bench.out / "trained")
    many, calls = Pipeline.run_many, list[str]()

    def third(line: Pipeline, *given: Any, **options: Any) -> Any:
        calls.append(options["progress"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return many(line, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run_many", third)
        with pytest.raises(KeyboardInterrupt):
            run_study("comparison", bench.recipe())
    assert set(bench.predictions()) == {"full-text-none.jsonl", "full-text-matched.jsonl"}
    assert not (bench.out / "results.json").exists()
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        run_study("comparison", bench.recipe())
    assert counter.arms[0] == "full-text, deranged"
    assert not set(calls[:2]) & set(counter.arms)
    for one, two in zip(finished[0].results()["arms"], bench.results()["arms"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0, "timed": None}


def turned(line: bytes) -> bytes:
    row = json.loads(line)
    return json.dumps({**row, "correct": not row["correct"]}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-40],
        lambda content: content[: content.index(b"\n") + 1],
        lambda content: content.replace(b'"arm": "', b'"arm": "0'),
        lambda content: content.replace(b'"usage"', b'"used"', 1),
        lambda content: content.replace(b'"read"', b'"red"', 1),
        lambda content: b"\xff" + content,
        lambda content: b"[]\n" * 6,
        lambda content: content + content.split(b"\n")[0] + b"\n",
        lambda content: b"\n".join(reversed(content[:-1].split(b"\n"))) + b"\n",
        lambda content: turned(content.split(b"\n")[0]) + content[content.index(b"\n") :],
    ],
    ids=[
        "empty",
        "cut within a line",
        "cut after a line",
        "of other settings",
        "without costs",
        "with other costs",
        "no text",
        "no objects",
        "longer",
        "in another order",
        "scored otherwise",
    ],
)
def test_damaged_predictions_are_not_trusted(
    damage: Callable[[bytes], bytes], copied: Bench, counter: Counter
) -> None:
    before = copied.predictions()
    path = copied.out / "predictions" / "embedding-matched.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    assert path.read_bytes() != before[path.name]
    with pytest.warns(UserWarning, match="embedding-matched.jsonl is damaged"):
        run_study("comparison", copied.recipe())
    assert counter.arms == ["embedding, matched"]
    again = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    known = [json.loads(line) for line in before[path.name].split(b"\n")[:-1]]
    for one, two in zip(again, known, strict=True):
        for row in (one, two):
            del row["sha256"]  # seconds are in it
            for spent in (row["usage"], *row["costs"].values()):
                spent["seconds"] = spent["wait"] = 0
        assert one == two


def test_line_breaks_of_unicode_in_a_prediction_are_kept(
    bench: Bench, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_words = Backbone.write

    def odd(model: Backbone, *given: Any, **options: Any) -> Any:
        found = write_words(model, *given, **options)
        return type(found)(tuple("a\u2028b\x85c" for _ in found.words), found.tokens, found.passes)

    monkeypatch.setattr(Backbone, "write", odd)
    lines = {"pair": bench.relay().full_text()}
    task = bench.relay().task
    first = compare(lines, task, limit=6, out=bench.out)
    assert len(counter.arms) == 3
    assert compare(lines, task, limit=6, out=bench.out).arms == first.arms
    assert len(counter.arms) == 3


def test_a_full_disk_while_a_report_is_saved_keeps_the_one_before(
    copied: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.read_bytes() for p in copied.out.rglob("*") if p.is_file()}

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=r"nothing was changed there\. Free some room"):
        run_study("comparison", copied.recipe("comparison.limit=5"))
    assert {p: p.read_bytes() for p in copied.out.rglob("*") if p.is_file()} == before
