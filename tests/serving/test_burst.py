"""The load that a foreign client sends: as it was published, and bounded."""

from __future__ import annotations

from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

from benchmarks.burst import Asked, asked


def given(**more: object) -> Namespace:
    usual = {"seed": 0, "rate": 2.0, "read": 100, "written": 50, "trace": None, "faster": 1.0}
    return Namespace(**usual | {"seconds": 1e9, "requests": 4000} | more)


def test_gaps_vary_as_published_and_lengths_are_bounded() -> None:
    found = asked(given())
    gaps = [b.at - a.at for a, b in pairwise(found)]
    assert abs(fmean(gaps) - 1 / 2) < 0.05
    assert abs(pstdev(gaps) / fmean(gaps) - 2**0.5) < 0.1  # of a Gamma distribution of shape 0.5
    reads = [one.read for one in found]
    assert (min(reads), max(reads)) == (1, 100)
    # Of lengths up to 100 by Zipf's law of 1.1 a share of 1 / (sum of n ** -1.1) has length 1.
    ones = 1 / sum(n**-1.1 for n in range(1, 101))
    assert abs(reads.count(1) / len(reads) - ones) < 0.02
    assert max(one.written for one in found) == 50


def test_the_time_is_bounded() -> None:
    found = asked(given(seconds=30.0))
    assert 30 < len(found) < 100
    assert found[-1].at <= 30


def test_a_trace_is_replayed_from_its_first_request_on(tmp_path: Path) -> None:
    path = tmp_path / "BurstGPT.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "45,ChatGPT,472,18,490,Conversation log\n"
        "65,GPT-4,7,0,7,API log\n"
        "118,ChatGPT,60,230,290,Conversation log\n"
        "9000,ChatGPT,1,1,2,Conversation log\n"
    )
    found = asked(given(trace=path, faster=2.0, seconds=60.0))
    assert found == [Asked(0.0, 100, 18), Asked(36.5, 60, 50)]
