"""The form of a curve of rate and distortion, fitted by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from math import exp, sqrt
from typing import Any

from unspoken.errors import MissingExtra

__all__ = ["Fit", "fit"]


@dataclass(frozen=True)
class Fit:
    """D(R) = scale exp(-decay R) + floor, R in usable bits; error: root mean square of the fit."""

    scale: float
    decay: float
    floor: float
    error: float

    def at(self, bits: float) -> float:
        return self.scale * exp(-self.decay * bits) + self.floor


def fit(bits: Sequence[float], distortion: Sequence[float]) -> Fit | None:
    """The form of arXiv 2512.21720 by least squares; None with fewer than four different rates.

    Scale and floor stay within 0 and 1, and the decay is not negative. The paper's R is bits for
    each token of one compressor after another; here it is bits for each message, as length varies.
    Raises `MissingExtra` without scipy.

    >>> fit([0, 1, 2, 3], [1.0, 0.55, 0.325, 0.2125]).floor
    0.1...
    """
    if len(set(bits)) < 4:
        return None
    try:
        optimize: Any = import_module("scipy.optimize")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "a fit needs scipy, which is not installed; "
            "install it with: pip install 'unspoken[compare]'"
        ) from error

    def off(form: Sequence[float]) -> list[float]:
        found = Fit(*map(float, form), error=0.0)
        return [found.at(rate) - lost for rate, lost in zip(bits, distortion, strict=True)]

    start = (
        max(max(distortion) - min(distortion), 0.01),
        1.0,
        min(max(min(distortion), 0.01), 0.99),
    )
    best: Any = optimize.least_squares(off, start, bounds=((0, 0, 0), (1, float("inf"), 1)))
    error = sqrt(sum(part * part for part in off(best.x)) / len(bits))
    return Fit(*map(float, best.x), error=error)
