"""Which Kafka a broker is: no request tells, but what it understands shows how new it is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import AdminClient

_ANNOUNCED = re.compile(r"ApiKey \S+ \((\d+)\) Versions (\d+)\.\.(\d+)")
_QUIET = 0.2  # seconds without a further line: all are told

# Number and version of a request that Kafka understands from a release on, the newest first.
# https://kafka.apache.org/protocol
_SINCE = (
    (90, 0, "4.1"),  # DescribeShareGroupOffsets
    (76, 1, "4.1"),  # ShareGroupHeartbeat
    (68, 1, "4.0"),  # ConsumerGroupHeartbeat
    (80, 0, "3.9"),  # AddRaftVoter
    (71, 0, "3.7"),  # GetTelemetrySubscriptions
    (65, 0, "3.0"),  # DescribeTransactions
    (60, 0, "2.8"),  # DescribeCluster
    (28, 3, "2.5"),  # TxnOffsetCommit with a group's metadata
    (18, 3, "2.4"),  # ApiVersions, flexible
)


class _Ear:
    """Hears what the client logs about what a broker announces. Any thread."""

    def __init__(self) -> None:
        self.found: dict[int, int] = {}
        self.heard = threading.Event()
        self.at = time.monotonic()

    def log(self, level: int, pattern: str, *words: Any) -> None:
        found = _ANNOUNCED.search(str(words[-1]) if words else pattern)
        if found:
            self.at = time.monotonic()
            self.found[int(found[1])] = int(found[3])
            self.heard.set()


def announced(properties: Mapping[str, Any], timeout: float) -> dict[int, int]:
    """The newest version of each request that a broker understands, by the request's number;
    empty where none was told within `timeout` seconds."""
    ear = _Ear()
    listening: dict[str, Any] = {"debug": "feature", "logger": ear, "error_cb": _nothing}
    client = AdminClient({**properties, **listening})
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        client.poll(0.05)
        if ear.heard.is_set() and time.monotonic() - ear.at > _QUIET:
            break
    return dict(ear.found)


def _nothing(error: Any) -> None:
    """Whoever could not connect has been told so before."""


def release(announced: Mapping[int, int]) -> str | None:
    """The release that the broker is at least, as "4.0"; None where nothing says so."""
    for request, version, since in _SINCE:
        if announced.get(request, -1) >= version:
            return since
    return None
