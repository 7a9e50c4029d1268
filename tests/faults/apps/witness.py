"""A plugin that writes down what its worker is told, one line each, with a monotonic time.

What the oracle replays: who had which partition, what was settled and committed, and when. A
line is a single write to a file opened for appending, so several workers share one file and
one that is killed leaves whole lines only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kworker import Message, hookimpl
from kworker.facts import HandlerInfo
from kworker.message import Partition


class Witness:
    def __init__(self) -> None:
        self._log = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _write(self, event: str, **facts: Any) -> None:
        line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **facts}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def _about(self, event: str, message: Message[Any], handler: HandlerInfo, **facts: Any) -> None:
        place = [message.topic, message.partition, message.offset]
        self._write(event, handler=handler.name, id=message.id, place=place, **facts)

    @hookimpl
    def partitions_assigned(self, partitions: Sequence[Partition]) -> None:
        self._write("assigned", partitions=list(partitions))

    @hookimpl
    def partitions_revoked(self, partitions: Sequence[Partition], lost: bool) -> None:
        self._write("lost" if lost else "revoked", partitions=list(partitions))

    @hookimpl
    def message_started(self, message: Message[Any], handler: HandlerInfo) -> None:
        self._about("started", message, handler, attempt=message.attempt)

    @hookimpl
    def message_settled(self, message: Message[Any], handler: HandlerInfo) -> None:
        self._about("settled", message, handler)

    @hookimpl
    def message_dead_lettered(self, message: Message[Any], handler: HandlerInfo) -> None:
        self._about("dead_lettered", message, handler)

    @hookimpl
    def message_skipped(self, message: Message[Any], handler: HandlerInfo, reason: str) -> None:
        self._about("skipped", message, handler, reason=reason)

    @hookimpl
    def offsets_committed(self, offsets: Mapping[Partition, int]) -> None:
        self._write("committed", offsets=[[*one, offset] for one, offset in offsets.items()])

    @hookimpl
    def partition_stuck(self, partition: Partition, reason: str) -> None:
        self._write("stuck", partition=list(partition), reason=reason)
