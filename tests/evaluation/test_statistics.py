"""Intervals and tests against published values."""

import sys
from collections.abc import Callable, Sequence
from itertools import product

import pytest

from unspoken.errors import DataError, MissingExtra
from unspoken.evaluation.statistics import difference, mcnemar, mean, resampled, wilson


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Paired answers with this two by two table."""
    return (
        [True] * (both + first) + [False] * (second + neither),
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_limits(k: int, n: int, low: float, high: float) -> None:
    found = wilson(k, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_wider_at_a_higher_level() -> None:
    assert wilson(5, 10, level=0.99).low < wilson(5, 10).low
    assert wilson(5, 10, level=0.99).high > wilson(5, 10).high


@pytest.mark.parametrize(("k", "n"), [(1, 0), (0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_counts_that_cannot_be(k: int, n: int) -> None:
    with pytest.raises(DataError, match=f"k={k}, n={n}"):
        wilson(k, n)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (5, 0, 2 * 0.5**5),
        (0, 5, 2 * 0.5**5),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_binomial_tail_of_the_discordant(first: int, second: int, p: float) -> None:
    assert mcnemar(*pairs(7, first, second, 4)) == pytest.approx(p)


def test_mcnemar_ignores_concordant_pairs() -> None:
    assert mcnemar(*pairs(0, 9, 2, 0)) == mcnemar(*pairs(500, 9, 2, 300))


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # D. G. Altman et al., Statistics with Confidence (2000), table 6.2.
        ((14, 5, 0, 22), 0.011, 0.226),
        # M. W. Fagerland et al., Statistical Analysis of Contingency Tables (2017), chapter 8, the
        # data of Cavo et al. (2012). Without the continuity correction: -0.1174 to -0.0059.
        ((59, 6, 16, 80), -0.1186, -0.0046),
    ],
)
def test_difference_gives_the_published_limits(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    digits = 5e-4 if table[0] == 14 else 5e-5
    found = difference(*pairs(*table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=digits)
    assert found.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert found.p == mcnemar(*pairs(*table))


def test_difference_turns_its_sign_with_the_order() -> None:
    first, second = pairs(20, 12, 2, 16)
    there, back = difference(first, second), difference(second, first)
    assert (there.value, there.low, there.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )
    assert there.p == back.p


def test_difference_stays_between_minus_one_and_one_and_holds_its_value() -> None:
    for table in product(range(5), repeat=4):
        if sum(table):
            found = difference(*pairs(*table))
            assert -1 <= found.low <= found.value <= found.high <= 1, table


def test_equal_answers_still_have_a_width() -> None:
    found = difference([True] * 20, [True] * 20)
    assert found.value == 0
    assert found.low == pytest.approx(wilson(20, 20).low - 1)
    assert found.high == pytest.approx(1 - wilson(20, 20).low)


@pytest.mark.parametrize("compared", [mcnemar, difference])
def test_unpaired_answers_are_refused(compared: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="got 2 and 1 answers"):
        compared([True, False], [True])
    with pytest.raises(DataError, match="at least one"):
        compared([], [])


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unspoken\[compare\]'"):
        wilson(1, 2)


def test_any_statistic_is_resampled_as_a_mean_is() -> None:
    values = [0.1 * n * n for n in range(20)]

    def average(items: Sequence[int]) -> float:
        return sum(values[n] for n in items) / len(items)

    found, known = resampled(average, range(20)), mean(values)
    assert found.value == pytest.approx(known.value)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=0.05)
    assert resampled(average, range(20)) == found
    with pytest.raises(DataError, match="two items or more"):
        resampled(average, [3])
