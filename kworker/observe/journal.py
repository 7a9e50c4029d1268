"""The log of a worker or publisher, as a plugin: a line at each outcome but plain success."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence

from .. import durations
from ..errors import PublishRejected
from ..facts import HandlerInfo, Snapshot, WorkerInfo
from ..hookspecs import hookimpl
from ..message import AnyMessage, Partition
from ..outcome import Outcome

log = logging.getLogger("kworker.worker")
publishing = logging.getLogger("kworker.publisher")

PROGRESS = 30.0  # seconds between two lines of progress
QUIET = 10.0  # seconds between two lines about messages that are not sent


class Journal:
    """Writes what it is told; per message nothing above DEBUG while all is well."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._handled = 0
        self._failures: dict[tuple[object, ...], tuple[int, float]] = {}

    @hookimpl
    def worker_started(self, worker: WorkerInfo) -> None:
        names = ", ".join(handler.name for handler in worker.handlers)
        log.info(
            "worker started: group %s, handlers %s, concurrency %d, store %s",
            worker.group, names, worker.concurrency, worker.store,
            extra={"group": worker.group, "topics": list(worker.topics)},
        )  # fmt: skip

    @hookimpl
    def worker_stopping(self, worker: WorkerInfo) -> None:
        log.info("stopping: finishing what runs", extra={"group": worker.group})

    @hookimpl
    def worker_beat(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._said < PROGRESS:
            return
        rate = (snapshot.handled - self._handled) / (now - self._said)
        self._said, self._handled = now, snapshot.handled
        lag, seconds = snapshot.behind
        log.info(
            "%d handled (%.1f/s), %d retried, %d dead-lettered, %d duplicates, %d in flight, "
            "lag %d (%.1f s)",
            snapshot.handled, rate, snapshot.retried, snapshot.dead_lettered, snapshot.skipped,
            snapshot.in_flight, lag, seconds,
            extra={
                "paused": len(snapshot.paused), "stuck": len(snapshot.stuck),
                "waiting": snapshot.waiting, "lag": lag, "lag_seconds": round(seconds, 3),
            },
        )  # fmt: skip

    @hookimpl
    def partitions_revoked(self, partitions: Sequence[Partition], lost: bool) -> None:
        level = logging.WARNING if lost else logging.INFO
        how = "lost to another member" if lost else "handed over"
        log.log(level, "partitions %s: %s", how, ", ".join(map(str, partitions)))

    @hookimpl
    def message_retrying(
        self, message: AnyMessage, handler: HandlerInfo, error: BaseException, attempt: int,
        delay: float,
    ) -> None:  # fmt: skip
        wait = durations.canonical(round(delay, 3))
        log.warning(
            "call %d of %s failed, the next in %s: %s: %s",
            attempt, handler.name, wait, type(error).__name__, error,
            extra=_fields(message, handler) | {"attempt": attempt, "delay": delay},
        )  # fmt: skip

    @hookimpl
    def message_dead_lettered(
        self, message: AnyMessage, handler: HandlerInfo, disposition: str,
        error: BaseException | None,
    ) -> None:  # fmt: skip
        log.error(
            "dead-lettered (%s) by %s: %s",
            disposition, handler.name, "decided before a restart" if error is None else error,
            extra=_fields(message, handler) | {"disposition": disposition},
        )  # fmt: skip

    @hookimpl
    def outage_started(self, handler: HandlerInfo, reason: str) -> None:
        log.error(
            "%s waits, what it needs is down: %s; one message at a time is tried",
            handler.name, reason, extra={"handler": handler.name},
        )  # fmt: skip

    @hookimpl
    def outage_ended(self, handler: HandlerInfo) -> None:
        log.info("%s works again", handler.name, extra={"handler": handler.name})

    @hookimpl
    def position_lost(
        self, partition: Partition, expected: int, found: int, missing: int | None
    ) -> None:
        log.error(
            "%s: offset %d no longer exists; %s messages are gone, reading goes on at %d",
            partition, expected, "an unknown number of" if missing is None else missing, found,
            extra={"topic": partition.topic, "partition": partition.index, "missing": missing},
        )  # fmt: skip

    @hookimpl
    def partition_stuck(self, partition: Partition, reason: str) -> None:
        log.error(
            "%s waits: %s", partition, reason,
            extra={"topic": partition.topic, "partition": partition.index},
        )  # fmt: skip

    @hookimpl
    def publish_failed(self, topic: str, error: Exception, kept: bool) -> None:
        rejected = isinstance(error, PublishRejected)
        untold = self._untold(topic, rejected, kept)
        if untold is None:
            return
        state = "rejected" if rejected else "waiting"
        where = f"it is kept: kworker outbox list --state {state}" if kept else "it is not kept"
        more = f" ({untold} since the last was told)" if untold > 1 else ""
        told = str(error).removeprefix(f"{topic}: ")
        publishing.log(
            logging.WARNING if kept and not rejected else logging.ERROR,
            "a message to %s %s: %s; %s%s",
            topic, "is rejected" if rejected else "waits", told, where, more,
            extra={"topic": topic, "kept": kept},
        )  # fmt: skip

    @hookimpl
    def publish_resumed(self, topic: str, count: int) -> None:
        publishing.info("%d kept messages to %s are sent", count, topic, extra={"topic": topic})

    def _untold(self, *kind: object) -> int | None:
        """How many of a kind there are to tell of; None while the last was told just now."""
        count, told = self._failures.get(kind, (0, -math.inf))
        now = time.monotonic()
        if now - told < QUIET:
            self._failures[kind] = count + 1, told
            return None
        self._failures[kind] = 0, now
        return count + 1


class Details:
    """The log's lines about what went well, for when DEBUG is asked for."""

    @hookimpl
    def message_settled(
        self, message: AnyMessage, handler: HandlerInfo, outcome: Outcome, seconds: float
    ) -> None:
        ended = type(outcome).__name__.lower()
        log.debug("%s in %.3f s", ended, seconds, extra=_fields(message, handler))

    @hookimpl
    def message_skipped(self, message: AnyMessage, handler: HandlerInfo, reason: str) -> None:
        log.debug("skipped by %s: %s", handler.name, reason, extra=_fields(message, handler))

    @hookimpl
    def offsets_committed(self, offsets: Mapping[Partition, int]) -> None:
        log.debug("committed %s", ", ".join(f"{one}@{at}" for one, at in offsets.items()))


def _fields(message: AnyMessage, handler: HandlerInfo) -> dict[str, object]:
    """Which message a line is about; of its key a hash alone, for keys may be people."""
    fields = {
        "handler": handler.name,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "attempt": message.attempt,
        "id": message.id,
    }
    if message.key is not None:
        fields["key_hash"] = hashlib.sha256(message.key).hexdigest()[:12]
    return fields
