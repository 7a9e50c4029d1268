"""The plugin: counts what it is told, and answers what `/metrics` is asked."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)

from kworker import hookimpl
from kworker.facts import HandlerInfo, Snapshot, WorkerInfo
from kworker.message import AnyMessage, Partition
from kworker.outcome import Done, Outcome

from . import metrics
from .gathered import gathered
from .metrics import BUCKETS, METRICS, Metric

CALLED = ("retries_exhausted", "rejected")  # dispositions that a failed call leads to

Labels = tuple[str, ...]
Values = Mapping[Labels, float]


class Prometheus:
    """Registers with the registry, by default prometheus_client's own, when a worker starts: so
    metrics of the app's own stand on the same page.

    Only the worker's loop counts, and a scrape only reads: nothing is locked, and a message
    costs less than with the library's own counters.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._registered = False
        self._worker: WorkerInfo | None = None
        self._snapshot: Snapshot | None = None
        self._handlers: dict[str, _Handler] = {}
        self._counters: Counter[tuple[Metric, Labels]] = Counter()
        self._outages: dict[Labels, float] = {}

    # --- told ------------------------------------------------------------------------------

    @hookimpl
    def worker_started(self, worker: WorkerInfo) -> None:
        self._worker = worker
        for handler in worker.handlers:
            self._handlers.setdefault(handler.name, _Handler())
        if not self._registered:
            self._registry.register(self)
            self._registered = True

    @hookimpl
    def worker_beat(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @hookimpl
    def worker_stopped(self) -> None:
        if self._registered:
            self._registry.unregister(self)
            self._registered = False

    @hookimpl
    def message_settled(self, handler: HandlerInfo, outcome: Outcome, seconds: float) -> None:
        try:
            counts = self._handlers[handler.name]
        except KeyError:
            counts = self._handlers[handler.name] = _Handler()
        counts.handled += outcome.__class__ is Done
        counts.seconds += seconds
        counts.buckets[bisect_left(BUCKETS, seconds)] += 1

    @hookimpl
    def message_retrying(self, handler: HandlerInfo) -> None:
        self._counters[metrics.FAILED, (handler.name,)] += 1
        self._counters[metrics.RETRIED, (handler.name,)] += 1

    @hookimpl
    def message_dead_lettered(self, handler: HandlerInfo, disposition: str) -> None:
        self._counters[metrics.DEAD_LETTERED, (handler.name, disposition)] += 1
        if disposition in CALLED:
            self._counters[metrics.FAILED, (handler.name,)] += 1

    @hookimpl
    def message_skipped(self, message: AnyMessage, handler: HandlerInfo, reason: str) -> None:
        kind = "duplicate" if reason == "duplicate" else "handler"
        self._counters[metrics.SKIPPED, (handler.name, kind)] += 1

    @hookimpl
    def offsets_committed(self) -> None:
        self._counters[metrics.COMMITS, ()] += 1

    @hookimpl
    def partitions_assigned(self, partitions: Sequence[Partition]) -> None:
        self._counters[metrics.REBALANCES, ("assigned",)] += 1

    @hookimpl
    def partitions_revoked(self, partitions: Sequence[Partition], lost: bool) -> None:
        self._counters[metrics.REBALANCES, ("lost" if lost else "revoked",)] += 1

    @hookimpl
    def outage_started(self, handler: HandlerInfo) -> None:
        self._outages[(handler.name,)] = 1.0

    @hookimpl
    def outage_ended(self, handler: HandlerInfo) -> None:
        self._outages[(handler.name,)] = 0.0

    @hookimpl
    def position_lost(self, partition: Partition, missing: int | None) -> None:
        self._counters[metrics.LOST, (partition.topic,)] += 1
        self._counters[metrics.MISSING, (partition.topic,)] += missing or 0

    @hookimpl
    def publish_failed(self, topic: str, kept: bool) -> None:
        self._counters[metrics.PUBLISH_FAILED, (topic, "true" if kept else "false")] += 1

    # --- asked -----------------------------------------------------------------------------

    @hookimpl
    def provide_metrics(self, workers: Mapping[int, bytes] | None) -> tuple[str, bytes]:
        if workers is None:
            return CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return CONTENT_TYPE_LATEST, gathered(workers)

    def collect(self) -> Iterator[Family]:
        """Every metric as it stands; asked by the registry."""
        gauges = self._gauges()
        for metric in METRICS:
            if metric.kind == "histogram":
                yield self._histogram(metric)
            elif metric.kind == "gauge":
                yield _family(GaugeMetricFamily, metric, gauges.get(metric, {}))
            else:
                yield _family(CounterMetricFamily, metric, self._counted(metric))

    def describe(self) -> Iterable[Family]:
        """Which metrics there are, so that registering asks for none."""
        return [Family(metric.name, metric.about, metric.kind) for metric in METRICS]

    def _counted(self, metric: Metric) -> Values:
        if metric is metrics.HANDLED:
            return {(name,): one.handled for name, one in list(self._handlers.items())}
        if metric is metrics.RECEIVED:
            received = {} if self._snapshot is None else self._snapshot.received
            return {(topic,): count for topic, count in received.items()}
        if metric is metrics.UNFINISHED:
            return {(): 0.0 if self._snapshot is None else float(self._snapshot.lost)}
        found: dict[Labels, float] = {} if metric.labels else {(): 0.0}
        for (one, labels), count in list(self._counters.items()):
            if one is metric:
                found[labels] = count
        return found

    def _gauges(self) -> dict[Metric, Values]:
        worker, now = self._worker, self._snapshot
        gauges: dict[Metric, Values] = {metrics.OUTAGE: dict(self._outages)}
        if worker is not None:
            labels = (worker.app, worker.group, version("kworker-kafka"))
            gauges[metrics.WORKER] = {labels: 1.0}
        if now is None:
            return gauges
        lags = {(one.topic, str(one.index)): lag for one, lag in now.lag.items()}
        return gauges | {
            metrics.IN_FLIGHT: {(): now.in_flight},
            metrics.WAITING: {(): now.waiting},
            metrics.ASSIGNED: {(): now.partitions},
            metrics.PAUSED: {(): len(now.paused)},
            metrics.STUCK: {(): len(now.stuck)},
            metrics.LAG: {
                one: lag.messages for one, lag in lags.items() if lag.messages is not None
            },
            metrics.LAG_SECONDS: {
                one: lag.seconds for one, lag in lags.items() if lag.seconds is not None
            },
            metrics.STORE: {(): now.store_bytes},
            metrics.TURN: {(): now.last_turn},
        }

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
        for name, one in list(self._handlers.items()):
            total, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), tuple(one.buckets), strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric((name,), buckets, one.seconds)
        return family


class _Handler:
    """What is counted for each message of one handler."""

    __slots__ = ("buckets", "handled", "seconds")

    def __init__(self) -> None:
        self.handled = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], metric: Metric, values: Values
) -> Family:
    family = kind(metric.name, metric.about, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
