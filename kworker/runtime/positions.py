"""Where to begin in a partition: at the commit, at the start policy, or where it was lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import CannotGoOn, KafkaUnavailable
from ..kafka.api import Committed, Consumer
from ..message import Partition
from ..plugins import Tell

log = logging.getLogger("kworker.runtime")

ASK = 5.0  # seconds that the group's coordinator may take to answer


@dataclass(frozen=True, slots=True)
class Lost:
    """A position that points at nothing any more; `missing` None: nobody can count."""

    partition: Partition
    expected: int
    found: int
    missing: int | None


def resolve(
    committed: Committed | None, ends: tuple[int, int], start_from: str, partition: Partition
) -> tuple[int, Lost | None]:
    """Where reading begins, and whether that is not where it should have. Pure."""
    low, high = ends
    if committed is None:
        return (low if start_from == "earliest" else high), None
    if committed.offset < low:
        return low, Lost(partition, committed.offset, low, low - committed.offset)
    if committed.offset > high:
        return low, Lost(partition, committed.offset, low, None)
    return committed.offset, None


class Positions:
    """Finds the starts of partitions that are assigned. Only the loop's thread touches it."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        start_from: Callable[[str], str],
        on_lost_position: str,
        tell: Tell,
    ) -> None:
        self._consumer = consumer
        self._start_from = start_from
        self._on_lost_position = on_lost_position
        self._tell = tell

    def starts(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where to begin in each; one that Kafka does not answer for yet is left out.

        A start that was not committed before is committed here, before the first message is
        taken: else what is written while the group is down could be skipped. Raises
        CannotGoOn for a lost position under `stop`.
        """
        try:
            committed = self._consumer.committed(partitions, ASK)
            ends = self._consumer.ends(committed, ASK)
        except KafkaUnavailable as error:
            log.warning("no start for %d partitions yet: %s", len(partitions), error)
            return {}
        starts: dict[Partition, int] = {}
        anew: dict[Partition, Committed] = {}
        ahead = 0
        for partition, point in committed.items():
            if partition not in ends:
                continue
            start, lost = resolve(
                point, ends[partition], self._start_from(partition.topic), partition
            )
            if lost is not None:
                self.tell_lost(lost)
            if point is None or lost is not None:
                anew[partition] = Committed(start)
            starts[partition] = start
            ahead += ends[partition][1] - start
        if anew:
            result = self._consumer.commit_now(anew)
            for partition, why in result.refused.items():
                log.info("the start of %s could not be committed yet: %s", partition, why)
                starts.pop(partition, None)
        if starts:
            log.info(
                "%d partitions assigned, %d messages ahead", len(starts), ahead,
                extra={"partitions": [str(one) for one in starts], "ahead": ahead},
            )  # fmt: skip
        return starts

    def again(self, partition: Partition, expected: int) -> int:
        """Where to go on in a partition whose position was lost while reading. Raises
        KafkaUnavailable, and CannotGoOn under `stop`."""
        ends = self._consumer.ends([partition], ASK)
        if partition not in ends:
            raise KafkaUnavailable(f"topic {partition.topic} is gone")
        start, lost = resolve(Committed(expected), ends[partition], "earliest", partition)
        if lost is not None:
            self.tell_lost(lost)
        return start

    def tell_lost(self, lost: Lost) -> None:
        self._tell(
            "position_lost",
            partition=lost.partition,
            expected=lost.expected,
            found=lost.found,
            missing=lost.missing,
        )
        if self._on_lost_position == "stop":
            many = "an unknown number of" if lost.missing is None else str(lost.missing)
            raise CannotGoOn(
                f"{lost.partition}: offset {lost.expected} no longer exists, {many} messages are "
                f"gone (the log begins at {lost.found}); on_lost_position is 'stop': look into it, "
                "then start with --on-lost-position earliest"
            )
