"""What hooks are told about: frozen facts, never running objects."""

from __future__ import annotations

from dataclasses import dataclass


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
class Snapshot:
    """A worker at one moment; the counts are since its start."""

    in_flight: int
    waiting: int  # for a retry, a due time or an acknowledgement
    partitions: int
    paused: int
    handled: int
    retried: int
    dead_lettered: int
    skipped: int
    last_turn: float  # seconds that the last turn of the loop took
