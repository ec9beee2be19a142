"""What a server counts, for Prometheus. Labels are names that the server knows, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from unspoken.runs import Run
from unspoken.scheduling import SchedulerState

__all__ = ["PATHS", "Metrics"]

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models")
"""The paths that are counted by name. All else is 'other'."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_EACH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one server.

    models: the names of pipelines. schedulers: what each model's batch does, by the model's name.
    """

    def __init__(
        self,
        models: Sequence[str],
        schedulers: Mapping[str, Callable[[], SchedulerState]],
        waiting: Callable[[], float],
        running: Callable[[], float],
    ) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry, "namespace": "unspoken"}
        self._requests = Counter("requests", "Requests.", ["path", "status"], **made)
        self._first = Histogram(
            "time_to_first_token_seconds",
            "From a request to the first words of its answer.",
            ["model"],
            buckets=_SECONDS,
            **made,
        )
        self._each = Histogram(
            "time_per_output_token_seconds",
            "Between two tokens of an answer.",
            ["model"],
            buckets=_EACH,
            **made,
        )
        self._tokens = Counter(
            "tokens", "Tokens of all agents: read, reused, written.", ["model", "kind"], **made
        )
        self._bytes = Counter("channel_bytes", "Bytes of messages.", ["model", "channel"], **made)
        Gauge("waiting_requests", "Requests that wait.", **made).set_function(waiting)
        Gauge("running_requests", "Requests being answered.", **made).set_function(running)
        for model in models:
            self._first.labels(model)
            self._each.labels(model)
        self.registry.register(_Batches(schedulers))

    def request(self, path: str, status: int) -> None:
        """Count a request. status: of its response."""
        self._requests.labels(path if path in PATHS else "other", str(status)).inc()

    def first(self, model: str, seconds: float) -> None:
        """The first words are there, so long after the request."""
        self._first.labels(model).observe(seconds)

    def answered(self, model: str, run: Run, sent: Mapping[str, int], seconds: float) -> None:
        """An answer is over, so long after its first words. sent: bytes by channel."""
        usage, written = run.usage, run.turns[-1].usage.written if run.turns else 0
        if written > 1:
            self._each.labels(model).observe(seconds / (written - 1))
        kinds = {"read": usage.read, "reused": usage.reused, "written": usage.written}
        for kind, count in kinds.items():
            self._tokens.labels(model, kind).inc(count)
        for channel, count in sent.items():
            self._bytes.labels(model, channel).inc(count)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Batches(Collector):
    """Steps of each model's batch and rows in them: their ratio is the mean size of a batch."""

    def __init__(self, schedulers: Mapping[str, Callable[[], SchedulerState]]) -> None:
        self.schedulers = schedulers

    def collect(self) -> Iterator[Metric]:
        steps = CounterMetricFamily("unspoken_batch_steps", "Steps of a batch.", labels=["weights"])
        rows = CounterMetricFamily("unspoken_batch_rows", "Rows in steps.", labels=["weights"])
        for name, state in self.schedulers.items():
            now = state()
            steps.add_metric([name], now.steps)
            rows.add_metric([name], now.written)
        yield from (steps, rows)
