"""Where to begin in a partition: at the commit, at the start policy, or where it was lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import CannotGoOn, KafkaUnavailable
from ..kafka.api import Committed, Consumer
from ..message import Partition
from ..offsets import Position
from ..plugins import Tell

log = logging.getLogger("kworker.runtime")

ASK = 5.0  # seconds that the group's coordinator may take to answer
FORGET = 0.5  # seconds that forgetting what a cut log held may wait for its turn at the store


@dataclass(frozen=True, slots=True)
class Lost:
    """A position that points at nothing any more; `missing` None: nobody can count."""

    partition: Partition
    expected: int
    found: int
    missing: int | None


EARLIEST = Position("earliest")


def resolve(
    committed: Committed, ends: tuple[int, int], partition: Partition, cut: int | None = None
) -> tuple[int, Lost | None]:
    """Where reading goes on, and whether that is not where it should have. Pure.

    `cut`: the log is known to have been truncated there; what stands below it still stands.
    """
    low, high = ends
    if cut is not None and low <= cut < committed.offset and cut <= high:
        return cut, Lost(partition, committed.offset, cut, None)
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
        start_from: Callable[[Partition], Position],
        on_lost_position: str,
        tell: Tell,
        recorded: Callable[[Partition], int],
        forget: Callable[[Mapping[Partition, int], float], bool],
        heard: Callable[[Partition, Committed | None, int], int | None] = lambda *heard: None,
    ) -> None:
        """`heard` is told what is committed, and where the log ends, or None for what says nothing
        about the log that is there now; it answers up to where the store, where that is what the
        commit speaks of, has the effects of it, below 0 where it knows of none. `recorded` is
        asked above which offset the store knows nothing; `forget` is told of logs that were cut,
        and where, and answers whether within so many seconds it has forgotten what stood there."""
        self._consumer = consumer
        self._start_from = start_from
        self._on_lost_position = on_lost_position
        self._tell = tell
        self._recorded = recorded
        self._forget = forget
        self._heard = heard

    def starts(
        self, partitions: Sequence[Partition], anew: Collection[Partition] = ()
    ) -> dict[Partition, int]:
        """Where to begin in each; one that Kafka does not answer for yet is left out. What is
        committed where a topic was made `anew` is of the log that is gone.

        A start that was not committed before is committed here, before the first message is
        taken: else what is written while the group is down could be skipped. Raises
        CannotGoOn for a lost position under `stop`.
        """
        try:
            committed = self._consumer.committed(partitions, ASK)
            ends = self._consumer.ends(committed, ASK)
            begins = self._begins(
                [one for one, at in committed.items() if at is None and one not in anew],
                ends,
            )
        except KafkaUnavailable as error:
            log.warning("no start for %d partitions yet: %s", len(partitions), error)
            return {}
        cut = [
            one
            for one, point in committed.items()
            if one in ends and one not in anew and self._was_cut(one, point, ends[one])
        ]
        if not self.forgotten(dict.fromkeys(cut, 0)):
            committed = {one: point for one, point in committed.items() if one not in cut}
        starts: dict[Partition, int] = {}
        to_commit: dict[Partition, Committed] = {}
        ahead = 0
        for partition, point in committed.items():
            if partition not in ends:
                continue
            lost = None
            if partition in anew or partition in cut or point is None:
                self._heard(partition, None, ends[partition][1])
            if partition in anew:
                start = ends[partition][0]
                if point is not None:
                    lost = Lost(partition, point.offset, start, None)
            elif point is None:
                start = begins[partition]
            else:
                if partition not in cut:
                    point = self._lower(partition, point, ends[partition])
                start, lost = resolve(point, ends[partition], partition)
            if lost is not None:
                self.tell_lost(lost)
            if point is None or lost is not None:
                to_commit[partition] = Committed(start)
            starts[partition] = start
            ahead += ends[partition][1] - start
        if to_commit:
            result = self._consumer.commit_now(to_commit)
            for partition, why in result.refused.items():
                log.info("the start of %s could not be committed yet: %s", partition, why)
                starts.pop(partition, None)
        if starts:
            log.info(
                "%d partitions assigned, %d messages ahead", len(starts), ahead,
                extra={"partitions": [str(one) for one in starts], "ahead": ahead},
            )  # fmt: skip
        return starts

    def _was_cut(
        self, partition: Partition, point: Committed | None, ends: tuple[int, int]
    ) -> bool:
        """Whether more was done than the log holds, so that other messages stand there now."""
        reached = 0 if point is None else point.offset
        return max(reached, self._recorded(partition)) > ends[1]

    def forgotten(self, cuts: Mapping[Partition, int]) -> bool:
        """Whether the store no longer knows what stood in these logs from these offsets on."""
        if not cuts or self._forget(cuts, FORGET):
            return True
        log.warning("%s: the store is busy; read later", ", ".join(map(str, cuts)))
        return False

    def _lower(self, partition: Partition, point: Committed, ends: tuple[int, int]) -> Committed:
        """Where a store is older than the commit, what it has lost is to be handled again: all
        there is, where it has lost even its first place."""
        stored = self._heard(partition, point, ends[1])
        if stored is None or stored >= point.offset:
            return point
        stored = ends[0] if stored < 0 else stored
        log.warning(
            "%s: the store is older than the commit, as after a power failure or from a backup: "
            "reading begins at %d, not at %d", partition, stored, point.offset,
            extra={"partition": str(partition), "stored": stored, "committed": point.offset},
        )  # fmt: skip
        return Committed(stored)

    def _begins(
        self, partitions: Sequence[Partition], ends: Mapping[Partition, tuple[int, int]]
    ) -> dict[Partition, int]:
        """Where those begin in which the group has no position."""
        policies = {one: self._start_from(one) for one in partitions if one in ends}
        by_time: dict[float, list[Partition]] = {}
        for partition, policy in policies.items():
            if policy.kind == "time":
                by_time.setdefault(policy.moment, []).append(partition)
        at: dict[Partition, int] = {}
        for moment, some in by_time.items():
            at |= self._consumer.offsets_at(some, moment, ASK)
        return {one: policy.within(*ends[one], at=at.get(one)) for one, policy in policies.items()}

    def again(
        self,
        expected: Mapping[Partition, int],
        anew: Collection[Partition] = (),
        cuts: Mapping[Partition, int] = MappingProxyType({}),
    ) -> dict[Partition, int]:
        """Where to go on in partitions whose position was lost while reading, whose topic was
        made `anew`, or whose log was cut at a known offset; one whose topic is gone is left out.
        Raises KafkaUnavailable, and CannotGoOn under `stop`."""
        starts: dict[Partition, int] = {}
        for partition, ends in self._consumer.ends(list(expected), ASK).items():
            place = Committed(expected[partition])
            if partition in anew:
                start, lost = ends[0], None
                if place.offset > start:
                    lost = Lost(partition, place.offset, start, None)
            else:
                start, lost = resolve(place, ends, partition, cuts.get(partition))
            if lost is not None:
                self.tell_lost(lost)
            starts[partition] = start
        return starts

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
