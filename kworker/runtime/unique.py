"""A worker of its own group: it gets every message, and keeps to itself how far it has come."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..kafka.api import Assignments, CommitResult, Committed, Consumer, Membership, Trouble
from ..message import Partition, Record


def group_of(app: str) -> str:
    """The name of a group that nobody else is in, and nobody will come back to."""
    return f"{app}.unique.{uuid.uuid4().hex}"


_FOLDER = "kworker-unique-"
_LOCK = "lock"


@contextlib.contextmanager
def folder(base: Path | None = None) -> Iterator[Path]:
    """A folder for as long as this process lives, in memory where the system has one.

    What a process that was killed has left is removed by the next one: its lock is free.
    """
    base = _in_memory() if base is None else base
    for left in base.glob(f"{_FOLDER}*/{_LOCK}"):
        _remove_left(left)
    own = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=base))
    try:
        with (own / "new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its name only once it is locked: else another process could find it free.
            (own / "new").rename(own / _LOCK)
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _remove_left(lock: Path) -> None:
    """Remove the folder of this lock if nobody lives in it."""
    try:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        pass  # somebody lives in it, or it is another user's, or gone


def _in_memory() -> Path:
    """Where the system keeps files in memory, else where it keeps those for a while."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


class Alone:
    """A member whose positions are kept in the process: nothing is committed to Kafka.

    A partition that comes back after a lost session goes on where it was.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._kept: dict[Partition, Committed] = {}

    @property
    def joined(self) -> bool:
        return self._consumer.joined

    def subscribe(self, topics: Iterable[str], assignments: Assignments) -> None:
        self._consumer.subscribe(topics, assignments)

    def poll(self, limit: int, patience: float) -> list[Record | Trouble]:
        return self._consumer.poll(limit, patience)

    def take(self, starts: Mapping[Partition, int]) -> None:
        self._consumer.take(starts)

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._consumer.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._consumer.resume(partitions)

    def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return self._consumer.positions(partitions)

    def committed(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, Committed | None]:
        return {one: self._kept.get(one) for one in partitions}

    def commit(
        self, positions: Mapping[Partition, Committed], answered: Callable[[CommitResult], None]
    ) -> None:
        answered(self.commit_now(positions))

    def memberships(self, positions: Mapping[Partition, Committed]) -> list[Membership]:
        return []  # it commits nothing

    def commit_now(self, positions: Mapping[Partition, Committed]) -> CommitResult:
        self._kept.update(positions)
        return CommitResult({}, {})

    def ends(
        self, partitions: Iterable[Partition], timeout: float
    ) -> dict[Partition, tuple[int, int]]:
        return self._consumer.ends(partitions, timeout)

    def offsets_at(
        self, partitions: Iterable[Partition], timestamp: float, timeout: float
    ) -> dict[Partition, int]:
        return self._consumer.offsets_at(partitions, timestamp, timeout)

    def seen_ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return self._consumer.seen_ends(partitions)

    def close(self) -> None:
        self._consumer.close()
