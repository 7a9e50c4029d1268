"""`--drain`: handle what is there now, its retries included, and know when that is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..kafka.api import Consumer
from ..message import Partition

ASK = 5.0  # seconds


def finished(
    consumer: Consumer,
    ends: Mapping[Partition, int],
    copies: Iterable[Partition],
) -> bool:
    """Whether the group's commits have reached `ends` in the source partitions, and the end
    of each partition of its retry and replay topics, whichever member they belong to.

    Raises KafkaUnavailable.
    """
    copies = list(copies)
    now = consumer.ends([*ends, *copies], ASK)
    committed = consumer.committed([*ends, *copies], ASK)
    for partition, (low, high) in now.items():
        end = ends.get(partition, high)
        if low >= end:
            continue
        point = committed.get(partition)
        if point is None or point.offset < end:
            return False
    return True
