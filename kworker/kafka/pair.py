"""Two members of one group behind one face, so that two kinds of topics are shared out apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from ..message import Partition, Record
from .api import Assignments, CommitResult, Committed, Membership, Trouble
from .consumer import Answered, GroupConsumer

JOIN = 5.0  # seconds that the second member waits for the first one to have joined


class PairedConsumer:
    """A member for most topics, and one for those that are `apart`. Only one thread may touch it.

    The assignor deals out the partitions of all topics of a member by their number alone, so
    a member may get all it has from one kind of topic. Each of these two subscribes to one
    kind, and each kind is dealt out among those who take it.

    Keeps the promises of GroupConsumer. Each call-back is about partitions of one kind. While
    one of the two serves a call-back the other is not polled: call-backs of both together
    must stay below max.poll.interval.ms.
    """

    def __init__(
        self, first: GroupConsumer, second: GroupConsumer, apart: Callable[[str], bool]
    ) -> None:
        self.group = first.group
        self._first = first
        self._second = second
        self._apart = apart
        self._join_second: tuple[Callable[[], None], float] | None = None
        self._subscribed: list[GroupConsumer] = []

    @property
    def joined(self) -> bool:
        """Whether those who subscribe have been told what is theirs."""
        return bool(self._subscribed) and all(member.joined for member in self._subscribed)

    def subscribe(self, topics: Iterable[str], assignments: Assignments) -> None:
        """Join the group for these topics; another call replaces them, and none leaves it.

        The second member joins once the first one has: beside it, it could come before it,
        which then waits for its next heartbeat; and a broker that waits for further members
        of a new group would wait longer.
        """
        wanted = list(topics)
        first = [topic for topic in wanted if not self._apart(topic)]
        second = [topic for topic in wanted if self._apart(topic)]
        self._subscribed = [self._first] * bool(first) + [self._second] * bool(second)

        def join_second() -> None:
            self._join_second = None
            self._second.subscribe(second, assignments)

        self._first.subscribe(first, assignments)
        self._join_second = join_second, time.monotonic() + JOIN
        if not first or self._second.joined:
            join_second()

    def poll(self, limit: int, patience: float) -> list[Record | Trouble]:
        """Up to `limit` records (two at least), half of them at most from topics apart; waits
        up to `patience` seconds for the first of the others where there is none apart."""
        self._first.check()
        self._second.check()
        if self._join_second is not None:
            join, until = self._join_second
            if self._first.joined or time.monotonic() > until:
                join()
        apart = self._second.gather(max(1, limit // 2), 0.0)
        others = self._first.gather(max(1, limit - len(apart)), 0.0 if apart else patience)
        return apart + others

    def take(self, starts: Mapping[Partition, int]) -> None:
        """Fetch these assigned partitions from these offsets."""
        for member, own in self._split(starts):
            member.take({partition: starts[partition] for partition in own})

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Take nothing from these until they are resumed; what was fetched waits."""
        for member, own in self._split(partitions):
            member.pause(own)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Go on with these where they were paused."""
        for member, own in self._split(partitions):
            member.resume(own)

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to be fetched, past transaction markers; absent where unknown."""
        found: dict[Partition, int] = {}
        for member, own in self._split(partitions):
            found |= member.positions(own)
        return found

    def committed(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, Committed | None]:
        """The group's positions, None where it has none. A partition that did not answer in
        time (a pending transaction) is absent. Raises KafkaUnavailable."""
        until = time.monotonic() + timeout
        found: dict[Partition, Committed | None] = {}
        for member, own in self._split(partitions):
            found |= member.committed(own, max(0.1, until - time.monotonic()))
        return found

    def commit(self, positions: Mapping[Partition, Committed], answered: Answered) -> None:
        """Commit without waiting; `answered` is called once, with the answers to both
        members, from a later `poll`, or by `close`."""
        parts = self._split(positions) or [(self._first, [])]
        results: list[CommitResult] = []

        def gathered(result: CommitResult) -> None:
            results.append(result)
            if len(results) == len(parts):
                answered(_merged(results))

        for member, own in parts:
            member.commit({partition: positions[partition] for partition in own}, gathered)

    def commit_now(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        """Commit and wait; see `Consumer.commit_now`."""
        return _merged(
            [
                member.commit_now({partition: positions[partition] for partition in own})
                for member, own in self._split(positions)
            ]
        )

    def memberships(self, positions: Mapping[Partition, Committed]) -> list[Membership]:
        """Positions for a transaction that is begun now, with each member's own standing."""
        return [
            membership
            for member, own in self._split(positions)
            for membership in member.memberships({part: positions[part] for part in own})
        ]

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        """First offset and end (high watermark) of each. A partition whose topic is gone is
        absent. Raises KafkaUnavailable."""
        return self._first.ends(partitions, timeout)

    def offsets_at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        """The first offset at or after that time (seconds since the epoch), else the end."""
        return self._first.offsets_at(partitions, timestamp, timeout)

    def seen_ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The ends that came along with what was fetched; see `Consumer.seen_ends`."""
        found: dict[Partition, int] = {}
        for member, own in self._split(partitions):
            found |= member.seen_ends(own)
        return found

    def close(self) -> None:
        """Leave the group with both members; serves `revoked` for what is still assigned, on
        this thread, and takes no longer than one of them would. Raises what a call-back
        raised."""
        self._join_second = None
        self._first.begin_close()
        self._second.begin_close()
        with ExitStack() as both:  # one that raises does not spare the other
            both.callback(self._first.end_close)
            both.callback(self._second.end_close)

    def _split(
        self, partitions: Iterable[Partition]
    ) -> list[tuple[GroupConsumer, list[Partition]]]:
        """The members that these belong to, each with its own."""
        first: list[Partition] = []
        second: list[Partition] = []
        for partition in partitions:
            (second if self._apart(partition.topic) else first).append(partition)
        parts = [(self._first, first), (self._second, second)]
        return [(member, own) for member, own in parts if own]


def _merged(results: Iterable[CommitResult]) -> CommitResult:
    """Several answers as one; expected are its refusals where all of them are."""
    stored: dict[Partition, int] = {}
    refused: dict[Partition, str] = {}
    unexpected = oversized = False
    for result in results:
        stored.update(result.stored)
        refused.update(result.refused)
        unexpected |= bool(result.refused) and not result.expected
        oversized |= result.oversized
    return CommitResult(stored, refused, bool(refused) and not unexpected, oversized)
