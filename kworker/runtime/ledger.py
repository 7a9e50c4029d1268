"""What is open in one partition, and up to where it is safe to commit."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from ..kafka.api import Committed
from ..message import Partition, Record
from ..note import Doubt
from ..ranges import Ranges

STAMPS = 16  # of a batch, in which to look up how old a message is


class Ledger:
    """The open offsets of one partition while it is ours, oldest first.

    Offsets enter in the order Kafka delivered them and may have gaps (compaction,
    transaction markers); a gap was never opened, so it never blocks a commit.
    Only the loop's thread touches a ledger, but for `ours` and
    `starting`, which handlers' threads read.
    """

    __slots__ = (
        "_closed",
        "_epochs",
        "_left",
        "_next",
        "_open",
        "_stamps",
        "doubts",
        "far",
        "ours",
        "parked",
        "partition",
        "said",
        "said_at",
        "sealed",
        "size",
        "start",
        "starting",
        "takings",
    )  # fmt: skip

    def __init__(self, partition: Partition, start: int) -> None:
        self.partition = partition
        self.start = start
        self.ours = True  # False: another member's; nothing may be recorded or committed
        self.starting = True  # False: no handler may be started any more
        self.sealed = False  # nothing more is to be read
        self.parked = 0  # works that are not due yet
        self.size = 0  # bytes of what is open
        self.far = sys.maxsize  # offsets from `safe` to `next` that surely fit a note
        self.said = ""  # the note of the last commit that Kafka has
        self.said_at = -1  # its offset; below 0: there is none since the partition is ours
        self.takings = 0  # by owners in a row, each from one that had not let go
        self.doubts: dict[tuple[str, int], Doubt] = {}  # by handler and offset; some are over
        self._next = start
        self._open: deque[int] = deque()
        self._left: dict[int, int] = {}  # parts of what is open, a bit each
        self._closed: set[int] = set()
        self._epochs: deque[tuple[int, int | None]] = deque([(start, None)])
        self._stamps: deque[tuple[int, float]] = deque()  # offsets, and when they were written

    def arrived(self, records: Sequence[Record]) -> None:
        """Note when some of a batch, the first among them, were written."""
        for record in records[:: max(1, len(records) // STAMPS)]:
            if record.timestamp is not None:
                self._stamps.append((record.offset, record.timestamp))

    def open(self, records: Sequence[Record], parts: int) -> None:
        """Enter the offsets of some records; one is finished when each of its `parts`, a bit each,
        is closed."""
        offsets = [record.offset for record in records]
        self._next = offsets[-1] + 1
        self._open.extend(offsets)
        self._left.update(dict.fromkeys(offsets, parts))
        self.size += sum([record.size for record in records])
        known = self._epochs[-1][1]
        if records[0].leader_epoch != known or records[-1].leader_epoch != known:  # they only grow
            self._learn_epochs(records)

    def _learn_epochs(self, records: Sequence[Record]) -> None:
        for record in records:
            epoch = record.leader_epoch
            if epoch is not None and epoch != self._epochs[-1][1]:
                self._epochs.append((record.offset, epoch))

    def close(self, records: Iterable[Record], part: int) -> None:
        """Finish that part of each of these, which were opened."""
        parts, opened, closed = self._left, self._open, self._closed
        for record in records:
            offset = record.offset
            left = parts.pop(offset) - part
            if left:
                parts[offset] = left
                continue
            self.size -= record.size
            if offset == opened[0]:
                opened.popleft()
            else:
                closed.add(offset)
        while closed and opened and opened[0] in closed:
            closed.remove(opened.popleft())

    def reopen(self, offset: int, part: int, size: int) -> None:
        """Take back that a part of an offset was closed."""
        left = self._left.get(offset, 0)
        self._left[offset] = left | part
        if left:
            return
        self.size += size
        if offset in self._closed:
            self._closed.remove(offset)
        else:
            # What was closed between it and the first open one is not known any more; as a gap
            # it counts as done all the same.
            self._open = deque(sorted((*self._open, offset)))

    def unfinished(self, most: int) -> list[int]:
        """The oldest open offsets, so many at most."""
        closed = self._closed
        return list(islice((one for one in self._open if one not in closed), most))

    def left(self, offset: int) -> int:
        """The parts of an offset that are open, a bit each."""
        return self._left.get(offset, 0)

    def reach(self, position: int) -> None:
        """Nothing that was not opened stands below `position`: markers, or the log's end."""
        if position > self._next:
            self._next = position

    @property
    def safe(self) -> int:
        """The lowest unfinished offset; the next one to read where nothing is open."""
        return self._open[0] if self._open else self._next

    @property
    def since(self) -> float | None:
        """When the oldest unfinished message was written, or one that came shortly before it;
        None where nothing is open."""
        stamps = self._stamps
        if not self._open:
            stamps.clear()
        while len(stamps) > 1 and stamps[1][0] <= self.safe:
            stamps.popleft()
        return stamps[0][1] if stamps else None

    @property
    def next(self) -> int:
        """The offset after the last one delivered."""
        return self._next

    def awaits(self, offset: int, part: int) -> bool:
        """Whether this part of an offset is still open, or still to come."""
        return offset >= self._next or bool(self._left.get(offset, 0) & part)

    def scattered(self, parts: int) -> bool:
        """Whether anything is finished from `safe` on, of offsets opened with these parts."""
        if self._closed:
            return True
        return parts > 1 and any(left != parts for left in self._left.values())

    def done(self, part: int) -> Ranges:
        """The offsets from `safe` to `next` of which this part is not open; what was never
        opened between them counts as done, for it never will be."""
        done = Ranges()
        left = self._left
        begin = self.safe
        for offset in self._open:
            if left.get(offset, 0) & part:
                done.add_range(begin, offset)
                begin = offset + 1
        done.add_range(begin, self._next)
        return done

    @property
    def count(self) -> int:
        """How many offsets are open, the finished ones behind an open one not counted."""
        return len(self._left)

    @property
    def accused(self) -> set[tuple[str, int]]:
        """What may have ended a process, by handler and offset: it is to run alone."""
        return {one for one, doubt in self.doubts.items() if doubt.accused and self._pends(one[1])}

    def _pends(self, offset: int) -> bool:
        """Whether an offset is open, or still to come."""
        return offset in self._left or offset >= self._next

    @property
    def spread(self) -> int:
        """How many offsets a note is about, gaps included."""
        return self._next - self.safe

    @property
    def span(self) -> int:
        """How many offsets a commit waits for: open, or finished behind an open one."""
        return len(self._open)

    def point(self) -> Committed:
        """What may be committed now, with the leader epoch of the record before it."""
        safe = self.safe
        epochs = self._epochs
        while len(epochs) > 1 and epochs[1][0] < safe:
            epochs.popleft()
        return Committed(safe, epochs[0][1])
