"""The bound on the damage: a part of the reads is done twice, and the difference is recorded."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

__all__ = ["Probe", "Prober", "divergence"]


@dataclass(frozen=True, slots=True)
class Probe:
    """What reusing caches changed in one row, against a dense read of the same tokens.

    keys, values: relative error in each of L layers (Frobenius norms, over the moved positions).
    kl: of the next token's distribution, dense to reused, in nats. agrees: whether the likeliest
    token is the same. candidate: whether the same candidate is chosen, None without candidates.
    """

    consumer: str
    keys: tuple[float, ...]
    values: tuple[float, ...]
    kl: float
    agrees: bool
    candidate: bool | None = None


class Prober:
    """Chooses reads to probe, keeps their results, and says which consumers must read densely.

    fraction: of the reads that reuse moved caches. tolerance: in nats. When the mean over the last
    `window` probes of a consumer exceeds it, or one of them chose another candidate, its reads are
    dense from then on.
    """

    def __init__(self, fraction: float, tolerance: float, *, seed: int = 0, window: int = 8):
        if not 0 <= fraction <= 1 or tolerance <= 0:
            raise ValueError(
                f"probe is a part of the reads, 0 to 1, and tolerance a number of nats above 0, "
                f"got probe={fraction} tolerance={tolerance}"
            )
        self.fraction, self.tolerance = fraction, tolerance
        self.seen: deque[Probe] = deque(maxlen=1000)
        self._random = Random(seed)
        self._last: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))

    def chooses(self) -> bool:
        return self._random.random() < self.fraction

    def note(self, probe: Probe) -> str:
        """Keep a probe. Returns why its consumer must read densely, or ''."""
        self.seen.append(probe)
        last = self._last[probe.consumer]
        last.append(probe.kl)
        mean = sum(last) / len(last)
        if probe.candidate is False:
            return "a probe chose another candidate"
        if mean > self.tolerance:
            return f"probes showed a mean KL of {mean:.3g} nats, tolerance {self.tolerance:.3g}"
        return ""

    def summary(self) -> dict[str, float]:
        """Means over the probes: kl, agreement, candidates, error of keys and of values."""
        if not self.seen:
            return {}
        judged = [probe.candidate for probe in self.seen if probe.candidate is not None]
        means = {
            "probes": float(len(self.seen)),
            "kl": _mean([probe.kl for probe in self.seen]),
            "agreement": _mean([float(probe.agrees) for probe in self.seen]),
            "keys": _mean([_mean(probe.keys) for probe in self.seen]),
            "values": _mean([_mean(probe.values) for probe in self.seen]),
        }
        return {**means, "candidates": _mean(judged)} if judged else means


def divergence(dense: Tensor, other: Tensor) -> Tensor:
    """KL(dense || other) in nats, of logits (..., V)."""
    p, q = (torch.log_softmax(logits.float(), -1) for logits in (dense, other))
    return (p.exp() * (p - q)).sum(-1)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
