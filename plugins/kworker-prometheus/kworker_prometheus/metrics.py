"""Every metric, declared once: the plugin and the page about them are grown from this."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric by the name it has in queries."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    about: str


WORKER = Metric("kworker_worker_info", "gauge", ("app", "group", "version"), "Always 1.")
RECEIVED = Metric(
    "kworker_messages_received_total", "counter", ("topic",),
    "Messages taken from Kafka, those handled before included.",
)  # fmt: skip
HANDLED = Metric(
    "kworker_messages_handled_total", "counter", ("handler",),
    "Messages whose handler ended well, and that are recorded.",
)  # fmt: skip
FAILED = Metric(
    "kworker_messages_failed_total", "counter", ("handler",), "Calls of a handler that failed."
)
RETRIED = Metric(
    "kworker_messages_retried_total", "counter", ("handler",),
    "Failed calls after which another one was to come.",
)  # fmt: skip
DEAD_LETTERED = Metric(
    "kworker_messages_dead_lettered_total", "counter", ("handler", "disposition"),
    "Messages that the dead-letter topic has acknowledged.",
)  # fmt: skip
SKIPPED = Metric(
    "kworker_messages_skipped_total", "counter", ("handler", "reason"),
    "Messages that were skipped: as a `duplicate`, or by the `handler` itself.",
)  # fmt: skip
IN_FLIGHT = Metric("kworker_messages_in_flight", "gauge", (), "Messages taken and not settled yet.")
WAITING = Metric(
    "kworker_messages_waiting", "gauge", (),
    "Messages that wait for a retry, a due time or an acknowledgement.",
)  # fmt: skip
SECONDS = Metric(
    "kworker_handler_seconds", "histogram", ("handler",),
    "Seconds that a handler ran for a message that was settled, all calls in this process.",
)  # fmt: skip
COMMITS = Metric("kworker_commits_total", "counter", (), "Commits that Kafka has stored.")
REBALANCES = Metric(
    "kworker_rebalances_total", "counter", ("event",),
    "Times that partitions were `assigned`, `revoked`, or `lost` before they could be finished.",
)  # fmt: skip
ASSIGNED = Metric("kworker_partitions_assigned", "gauge", (), "Partitions of this worker.")
PAUSED = Metric("kworker_partitions_paused", "gauge", (), "Those that take nothing for now.")
STUCK = Metric(
    "kworker_partitions_stuck",
    "gauge",
    (),
    "Those whose commit stands still until something is mended.",
)
LAG = Metric(
    "kworker_lag_messages", "gauge", ("topic", "partition"),
    "Offsets between the lowest unfinished message and the partition's end.",
)  # fmt: skip
LAG_SECONDS = Metric(
    "kworker_lag_seconds", "gauge", ("topic", "partition"),
    "Age of the oldest unfinished message; in a retry topic, how long it is overdue.",
)  # fmt: skip
STORE = Metric("kworker_store_bytes", "gauge", (), "Size of the store that remembers messages.")
OUTAGE = Metric("kworker_outage", "gauge", ("handler",), "1 while what the handler needs is down.")
LOST = Metric(
    "kworker_positions_lost_total", "counter", ("topic",),
    "Times that the next message to read no longer existed.",
)  # fmt: skip
MISSING = Metric(
    "kworker_messages_missing_total", "counter", ("topic",),
    "Messages that were gone then, as far as anybody can count.",
)  # fmt: skip
PUBLISH_FAILED = Metric(
    "kworker_publish_failed_total", "counter", ("topic", "kept"),
    "Messages whose publication was not acknowledged; `kept`: they are in the outbox.",
)  # fmt: skip
UNFINISHED = Metric(
    "kworker_messages_lost_total", "counter", (),
    "Under `at_most_once`: messages that were committed, and are not known to be finished.",
)  # fmt: skip
TURN = Metric("kworker_last_turn_seconds", "gauge", (), "How long the loop's last turn took.")

METRICS: tuple[Metric, ...] = (
    WORKER, RECEIVED, HANDLED, FAILED, RETRIED, DEAD_LETTERED, SKIPPED, IN_FLIGHT, WAITING,
    SECONDS, COMMITS, REBALANCES, ASSIGNED, PAUSED, STUCK, LAG, LAG_SECONDS, STORE, OUTAGE, LOST,
    MISSING, UNFINISHED, PUBLISH_FAILED, TURN,
)  # fmt: skip

BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Seconds; above the last one there is infinity."""
