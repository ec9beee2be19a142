"""Seconds that an earlier run has measured are marked, and reports say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console

from unspoken.backbone import Backbone
from unspoken.channels import TextChannel
from unspoken.evaluation.arm import Arm, notes
from unspoken.evaluation.bits import informed
from unspoken.evaluation.evaluator import Evaluator
from unspoken.evaluation.store import Store
from unspoken.evaluation.timing import Timed, earlier_seconds
from unspoken.page import arm_table
from unspoken.pipeline import Pipeline
from unspoken.results import read_results, write_page
from unspoken.studies.comparison import Compared, Report, compare
from unspoken.studies.telephone.measure import Players, play

from .test_identity import ITEMS, TASK, pair

THEN = Timed("2026-01-02", "Linux x86_64", 8, 1, "AVX2", None, "2.9.0", 16)
LATER = replace(THEN, date="2026-03-04", gpu="H200", batch_size=4)


@pytest.fixture
def line(tiny: Callable[..., Backbone]) -> Pipeline:
    return pair(tiny("llama"), TextChannel(verbatim=True))


def printed(report: Report) -> str:
    shown = Console(file=StringIO(), width=400)
    shown.print(report.table())
    assert isinstance(shown.file, StringIO)
    return " ".join(shown.file.getvalue().split())


def kept_lines(folder: Path) -> list[dict[str, object]]:
    paths = sorted((folder / "predictions").iterdir())
    return [json.loads(row) for path in paths for row in path.read_text().splitlines()]


def test_the_first_run_says_nothing_and_the_second_says_what_is_old(
    line: Pipeline, tmp_path: Path
) -> None:
    first = compare({"words": line}, TASK, batch_size=2, out=tmp_path)
    assert [arm.timed for arm in first.arms] == [None] * 3
    for told in (first.markdown(), printed(first), json.dumps(first.to_dict())):
        assert "earlier run" not in told
    assert {arm["timed"] for arm in first.to_dict()["arms"]} == {None}
    rows = kept_lines(tmp_path)
    again = compare({"words": line}, TASK, batch_size=4, out=tmp_path)
    assert kept_lines(tmp_path) == rows
    for one, two in zip(first.arms, again.arms, strict=True):
        assert (one.seconds, one) == (two.seconds, two)
        assert two.timed is not None
        assert two.timed.batch_size == 2  # of the run that measured, not of this one
        assert two.timed.threads == torch.get_num_threads()
        assert two.timed.date == first.machine["date"]
    note = notes(again.arms)
    assert note.startswith(
        f"The seconds of 3 of 3 arms were measured in an earlier run: {first.machine['date']} with "
    )
    assert note in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert " ".join(note.split()) in " ".join(printed(again).split())


def test_a_page_and_json_say_it_too(line: Pipeline, tmp_path: Path) -> None:
    compare({"words": line}, TASK, out=tmp_path)
    assert "earlier run" not in write_page(tmp_path).read_text(encoding="utf-8")
    again = compare({"words": line}, TASK, out=tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [arm["timed"]["batch_size"] for arm in found["arms"]] == [16] * 3
    (recorded,) = read_results(tmp_path)
    read = recorded.report
    assert isinstance(read, Compared)
    assert notes(read.arms) == notes(again.arms) != ""
    shown = write_page(tmp_path).read_text(encoding="utf-8")
    assert notes(again.arms).removesuffix(".") in shown


def test_only_what_was_read_from_the_folder_is_old(line: Pipeline, tmp_path: Path) -> None:
    compare({"words": line}, TASK, out=tmp_path)
    (tmp_path / "predictions" / "words-matched.jsonl").unlink()
    again = compare({"words": line, "same": line}, TASK, out=tmp_path)
    old = {(arm.channel, arm.condition): arm.timed is not None for arm in again.arms}
    assert old == {
        ("words", "none"): True,
        ("words", "matched"): False,
        ("words", "deranged"): True,
        ("same", "none"): True,
        ("same", "matched"): False,
        ("same", "deranged"): True,
    }
    assert notes(again.arms).startswith("The seconds of 4 of 6 arms ")


def test_within_a_run_nothing_is_old(line: Pipeline, tmp_path: Path) -> None:
    evaluator = Evaluator(ITEMS, 2, Store(tmp_path))
    for name in ("one", "two", "one"):
        assert evaluator.arm(name, "matched", line).timed is None
        assert all(row.timed is None for row in evaluator.predictions(name, "matched", line))
    assert Evaluator(ITEMS, 2, Store(tmp_path)).arm("one", "matched", line).timed is not None


def test_what_is_measured_anew_is_new(line: Pipeline, tmp_path: Path) -> None:
    Evaluator(ITEMS, 2, Store(tmp_path)).arm("one", "matched", line)
    store = Store(tmp_path)
    assert Evaluator(ITEMS, 2, store).arm("one", "matched", line).timed is not None
    corrected = [replace(item, answers=("none",)) for item in ITEMS]
    assert Evaluator(corrected, 2, store).arm("one", "matched", line).timed is None


def test_seconds_of_usable_bits_are_marked(line: Pipeline, tmp_path: Path) -> None:
    def measured() -> Timed | None:
        return informed({"one": line}, Evaluator(ITEMS, 2, Store(tmp_path)))["one"].timed

    assert measured() is None
    found = measured()
    assert found is not None
    assert found.batch_size == 2


def test_arms_of_a_game_are_marked(line: Pipeline, tmp_path: Path) -> None:
    def old() -> set[bool]:
        report = play({"words": Players(line, line)}, TASK, hops=1, out=tmp_path)
        hop = report.channels["words"][0]
        return {arm.timed is not None for arm in (hop.matched, hop.deranged, report.alone)}

    assert (old(), old()) == ({False}, {True})


def test_the_sentence_names_each_machine_once():
    arms = [("a", THEN), ("b", None), ("c", LATER), ("d", THEN)]
    assert earlier_seconds(arms) == (
        "The seconds of 3 of 4 arms were measured in an earlier run: a, d (2026-01-02 with Linux "
        "x86_64 (AVX2), 1 of 8 cores, torch 2.9.0, batches of 16); c (2026-03-04 with Linux "
        "x86_64 (AVX2), H200, 1 of 8 cores, torch 2.9.0, batches of 4)."
    )
    assert earlier_seconds(arms[:1]).startswith("The seconds of 1 of 1 arms were measured in an ")
    assert "run: 2026-01-02 with Linux" in earlier_seconds(arms[:1])
    assert earlier_seconds([("a", None)]) == earlier_seconds([]) == ""


def test_a_table_of_a_page_says_it():
    arm = Arm("words", "none", 2, 0.5, 0.1, 0.9, 1, 1, 1, 0, 0.1)
    assert arm_table([arm]).caption == "Every arm. Costs are means for each item, over all agents"
    caption = arm_table([arm, replace(arm, timed=THEN)]).caption
    assert "over all agents. The seconds of 1 of 2 arms were measured in an earlier run" in caption


def test_arms_of_earlier_versions_are_read():
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "relay-qasc.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    arms = TypeAdapter(tuple[Arm, ...]).validate_python(content["arms"])
    assert len(arms) == len(content["arms"]) > 0
    assert notes(arms) == ""


def test_many_cut_answers_are_told():
    arm = Arm("words", "none", 20, 0.5, 0.1, 0.9, 1, 1, 1, 0, 0.1)
    arms = [arm, *(replace(arm, channel=f"c{n}", cut=n) for n in (1, 2, 9, 7, 20))]
    assert notes(arms) == (
        "Many answers were cut at max_tokens, in 4 of 6 arms: c20 none 20 of 20, c9 none 9 of 20, "
        "c7 none 7 of 20 and others. Raise max_tokens to see their ends."
    )
    assert notes(arms[:2]) == ""
    assert "c2 none 2 of 20. Raise" in (arm_table(arms[:3]).caption + ".")


def test_a_comparison_counts_cut_answers(line: Pipeline, tmp_path: Path) -> None:
    report = compare({"words": line}, TASK, out=tmp_path)
    finish = [row["finish"] for row in kept_lines(tmp_path)]
    assert set(finish) <= {"stop", "length"}
    assert (
        repr(report)
        == f"<Report {report.title}: words {100 * report.arms[1].accuracy:.1f} % right>"
    )
    assert sum(arm.cut or 0 for arm in report.arms) == finish.count("length") > 0
