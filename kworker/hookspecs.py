"""Where kworker can be extended, on one page.

**Observers** are told facts in the order of life and can do no harm: one that raises is
logged and the rest are told. They run on the worker's loop, so they must be quick.
An implementation may take any of a hook's parameters and leave out the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from .facts import HandlerInfo, Snapshot, WorkerInfo
from .message import AnyMessage, Partition
from .outcome import Outcome

hookspec = pluggy.HookspecMarker("kworker")
hookimpl = pluggy.HookimplMarker("kworker")


@hookspec
def worker_started(worker: WorkerInfo) -> None:
    """The worker has found its topics, opened its store and joins its group."""


@hookspec
def worker_beat(snapshot: Snapshot) -> None:
    """Once a second while the worker runs."""


@hookspec
def worker_stopping(worker: WorkerInfo) -> None:
    """The worker takes nothing more; what runs is finished."""


@hookspec
def partitions_assigned(partitions: Sequence[Partition]) -> None:
    """These partitions are this worker's now."""


@hookspec
def partitions_revoked(partitions: Sequence[Partition], lost: bool) -> None:
    """These partitions have gone to another worker; `lost`: before this one could finish."""


@hookspec
def message_settled(
    message: AnyMessage, handler: HandlerInfo, outcome: Outcome, seconds: float
) -> None:
    """A handler has ended well, or skipped, and it is recorded; `seconds` it ran."""


@hookspec
def message_retrying(
    message: AnyMessage, handler: HandlerInfo, error: BaseException, attempt: int, delay: float
) -> None:
    """Call number `attempt` failed; the next comes in `delay` seconds."""


@hookspec
def message_dead_lettered(
    message: AnyMessage, handler: HandlerInfo, disposition: str, error: BaseException | None
) -> None:
    """The dead-letter topic has acknowledged the message."""


@hookspec
def message_skipped(message: AnyMessage, handler: HandlerInfo, reason: str) -> None:
    """A message was not handed to its handler, since it was done before."""


@hookspec
def outage_started(handler: HandlerInfo, reason: str) -> None:
    """What the handler needs is down; its messages wait, and one at a time is tried."""


@hookspec
def outage_ended(handler: HandlerInfo) -> None:
    """One that was tried did not end in an outage; the others follow."""


@hookspec
def position_lost(partition: Partition, expected: int, found: int, missing: int | None) -> None:
    """The next message to read is gone; reading goes on at `found`. None: nobody can count."""


@hookspec
def partition_stuck(partition: Partition, reason: str) -> None:
    """A partition waits, and its commit stands still, until `reason` is mended."""


@hookspec
def offsets_committed(offsets: Mapping[Partition, int]) -> None:
    """Kafka has stored these positions of the group."""
