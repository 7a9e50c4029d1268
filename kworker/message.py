"""What arrived: records as Kafka gave them, messages as a handler sees them."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

Headers = tuple[tuple[str, bytes | None], ...]
"""Headers in the order they were sent; a name may occur more than once."""


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    index: int  # type: ignore[assignment]  # nobody looks for items in a pair

    def __str__(self) -> str:
        return f"{self.topic}/{self.index}"


class Position(NamedTuple):
    """One place in one partition's log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Record:
    """What Kafka gave: bytes and where they stood. Never changed after it is made.

    `value` None is a tombstone. `timestamp` is in seconds since the epoch, None where the
    topic has none. `damage` says why the headers could not be read (a header name that is
    not UTF-8); such a record has no headers. `size` counts the bytes of key, value and headers.
    """

    __slots__ = (
        "damage",
        "headers",
        "key",
        "leader_epoch",
        "offset",
        "partition",
        "size",
        "timestamp",
        "topic",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Headers = (),
        timestamp: float | None = None,
        leader_epoch: int | None = None,
        damage: str | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
        self.leader_epoch = leader_epoch
        self.damage = damage
        size = 0 if value is None else len(value)
        if key is not None:
            size += len(key)
        for name, text in headers:
            size += len(name) + (0 if text is None else len(text))
        self.size = size

    def __repr__(self) -> str:
        return f"Record({self.topic}/{self.partition}/{self.offset})"


class Message(Generic[T]):
    """What arrived, as a handler sees it.

    `value` is decoded, `raw` are its bytes (None for a tombstone). `topic`, `partition` and
    `offset` are where it arrived, which for a retry is a retry topic; `original` is where it
    arrived first. `timestamp` is its producer's, in seconds since the epoch. `id` is what
    deduplication goes by. `attempt` counts this handler's calls for it, this one included
    (for those who are told of a message that is not being handled: the calls so far).
    `replay` counts how often it was replayed from the dead-letter topic.
    """

    __slots__ = (
        "_original",
        "attempt",
        "headers",
        "id",
        "key",
        "offset",
        "partition",
        "raw",
        "replay",
        "timestamp",
        "topic",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        value: T,
        *,
        raw: bytes | None,
        key: bytes | None,
        headers: Headers,
        topic: str,
        partition: int,
        offset: int,
        timestamp: float | None,
        id: str,
        attempt: int = 1,
        replay: int = 0,
        original: Position | None = None,
    ) -> None:
        self.value = value
        self.raw = raw
        self.key = key
        self.headers = headers
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self.id = id
        self.attempt = attempt
        self.replay = replay
        self._original = original

    @property
    def original(self) -> Position:
        """Where it arrived first."""
        return self._original or Position(self.topic, self.partition, self.offset)

    def header(self, name: str) -> str | None:
        """The first header of that name as text, None where there is none."""
        for given, value in self.headers:
            if given == name:
                return None if value is None else value.decode("utf-8", "replace")
        return None

    def __repr__(self) -> str:
        return f"Message({self.topic}/{self.partition}/{self.offset}, id={self.id!r})"


AnyMessage = Message[Any]
