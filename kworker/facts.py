"""What hooks are told about: frozen facts, never running objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .message import Partition


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """A handler by its name and the topics it takes."""

    name: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process: what it serves, and as whom."""

    app: str
    group: str
    handlers: tuple[HandlerInfo, ...]
    topics: tuple[str, ...]
    concurrency: int
    store: str  # the path of its file, or where a plugin keeps it


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a worker is behind in one partition, as far as it knows.

    `position` is the lowest unfinished offset, `messages` how many offsets it is below `end`.
    `seconds` is the age of the oldest unfinished message (about: to a sixteenth of what was
    fetched with it), in a retry topic how long it is overdue; 0 where nothing is ahead. None is
    what is not known: before the first fetch, and before the next message has come.
    """

    position: int
    end: int | None
    messages: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker at one moment; the counts are since its start.

    `paused` and `stuck` say why: what is paused takes nothing more for now, what is stuck has
    been told of (`partition_stuck`) and has not moved on since.
    """

    joined: bool  # the group has told what is this worker's, be it nothing
    in_flight: int
    waiting: int  # for a retry, a due time or an acknowledgement
    partitions: int
    paused: Mapping[Partition, str]
    stuck: Mapping[Partition, str]
    lag: Mapping[Partition, Lag]
    received: Mapping[str, int]  # by topic, what was handled before included
    handled: int
    retried: int
    dead_lettered: int
    skipped: int  # as duplicates
    lost: int  # under at_most_once: committed, and not known to be finished
    store_bytes: int
    last_turn: float  # seconds that the last turn of the loop took

    @property
    def behind(self) -> tuple[int, float]:
        """The messages ahead in all partitions, and the age of the oldest in seconds."""
        lags = self.lag.values()
        messages = sum(one.messages or 0 for one in lags)
        return messages, max((one.seconds or 0.0 for one in lags), default=0.0)
