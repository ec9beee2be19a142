"""Intervals and tests: of right and wrong answers, as fractions 0 to 1, and of means over items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import sqrt
from typing import Annotated, Any

from pydantic import Field

from unspoken.errors import DataError, MissingExtra

__all__ = [
    "Amount",
    "Count",
    "Difference",
    "Estimate",
    "Interval",
    "Share",
    "difference",
    "mcnemar",
    "mean",
    "resampled",
    "wilson",
]


Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
"""Numbers as they must be in a file that is read back."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a proportion, both ends within 0 and 1."""

    low: Share
    high: Share


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of two proportions, -1 to 1, its interval, and McNemar's exact p."""

    value: Change
    low: Change
    high: Change
    p: Share


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value in the unit of what it was made of, and its interval.

    >>> f"{Estimate(2.69, 2.12, 3.31):+.1f}"
    '+2.7 [+2.1, +3.3]'
    """

    value: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def mean(values: Sequence[float], *, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean over items, with the interval of the percentile bootstrap: 9,999 resamples, by seed.

    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    Equal values have an interval of no width. Raises `DataError` without two values,
    `MissingExtra` without scipy.

    >>> mean([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    if len(values) < 2:
        raise DataError(f"an interval of a mean needs two values or more, got {len(values)}")
    found: Any = (
        _stats()
        .bootstrap((list(values),), _average, confidence_level=level, method="percentile", rng=seed)
        .confidence_interval
    )
    return Estimate(sum(values) / len(values), float(found.low), float(found.high))


def _average(sample: Any, axis: int) -> Any:
    return sample.mean(axis=axis)


def resampled(
    statistic: Callable[[Sequence[int]], float],
    items: Sequence[int],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Any statistic of items, given by their numbers: percentile bootstrap, 999 resamples, by seed.

    For statistics that are not a mean over items, such as a fit or a correlation. Raises
    `DataError` without two items, `MissingExtra` without scipy.

    >>> resampled(lambda numbers: float(max(numbers)), range(40)).value
    39.0
    """
    if len(items) < 2:
        raise DataError(f"an interval needs two items or more, got {len(items)}")
    found: Any = (
        _stats()
        .bootstrap(
            (list(items),),
            statistic,
            n_resamples=999,
            vectorized=False,
            confidence_level=level,
            method="percentile",
            rng=seed,
        )
        .confidence_interval
    )
    return Estimate(statistic(items), float(found.low), float(found.high))


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's (1927) score interval for k right answers of n, without continuity correction.

    Raises `DataError` unless 0 <= k <= n and n > 0, `MissingExtra` without scipy.

    >>> round(wilson(5, 10).low, 3)
    0.237
    """
    if not 0 <= k <= n or n == 0:
        raise DataError(f"an interval needs 0 <= k <= n and n > 0, got k={k}, n={n}; score an item")
    found = _binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(found.low), float(found.high))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """McNemar's (1947) test in its exact, two-sided form: p from the discordant pairs alone.

    `first[i]` and `second[i]` are the same item under two conditions. Without a discordant pair
    p is 1. Raises `DataError` for sequences that are empty or of unequal length.
    """
    _, only_first, only_second, _ = _table(first, second)
    if only_first + only_second == 0:
        return 1.0
    return float(_binomtest(only_first, only_first + only_second).pvalue)


def difference(first: Sequence[bool], second: Sequence[bool], level: float = 0.95) -> Difference:
    """How much more often `first` is right than `second`, on the same items.

    The interval is method 10 of R. G. Newcombe, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", Statistics in Medicine 17 (1998) 2635-2650:
    two Wilson intervals, combined by the correlation of the pairs. In contrast to the usual
    normal interval it stays within -1 and 1, and has a width even when no pair differs.
    p is `mcnemar`'s. Near 0.05 interval and p may disagree: the test is the more cautious one.
    Raises `DataError` for sequences that are empty or of unequal length.

    >>> round(difference([True] * 3 + [False], [False] * 4).value, 2)
    0.75
    """
    both, only_first, only_second, neither = _table(first, second)
    n = both + only_first + only_second + neither
    p1, p2 = (both + only_first) / n, (both + only_second) / n
    one, two = wilson(both + only_first, n, level), wilson(both + only_second, n, level)
    phi = _correlation(both, only_first, only_second, neither)
    value = (only_first - only_second) / n
    return Difference(
        value,
        value - _combined(p1 - one.low, two.high - p2, phi),
        value + _combined(one.high - p1, p2 - two.low, phi),
        mcnemar(first, second),
    )


def _combined(one: float, two: float, phi: float) -> float:
    # Rounding can push a square that is zero just below it.
    return sqrt(max(one * one - 2 * phi * one * two + two * two, 0.0))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the two by two table; a positive one is continuity-corrected, as method 10 asks."""
    firsts = (both + only_first) * (only_second + neither)
    margins = firsts * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    product = both * neither - only_first * only_second
    n = both + only_first + only_second + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / sqrt(margins)


def _table(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, int, int]:
    """Pairs right in both, only in the first, only in the second, in neither."""
    if len(first) == 0 or len(first) != len(second):
        raise DataError(
            f"a paired comparison got {len(first)} and {len(second)} answers; "
            "give the same items, at least one, in the same order to both"
        )
    pairs = [(bool(one), bool(two)) for one, two in zip(first, second, strict=True)]
    table = ((True, True), (True, False), (False, True), (False, False))
    both, only_first, only_second, neither = (pairs.count(cell) for cell in table)
    return both, only_first, only_second, neither


def _binomtest(k: int, n: int) -> Any:
    """scipy's exact test of k in n against one half."""
    return _stats().binomtest(k, n)


def _stats() -> Any:
    """scipy's statistics. Any, because scipy ships no types."""
    try:
        return import_module("scipy.stats")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "intervals and tests need scipy, which is not installed; "
            "install it with: pip install 'unspoken[compare]'"
        ) from error
