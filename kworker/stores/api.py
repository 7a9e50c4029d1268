"""What a store promises: it remembers what was done, what was tried and what was decided."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..outcome import Output
from ..ranges import Ranges


class Mark(NamedTuple):
    """That `handler` has settled the message `id` of the original `topic`.

    `replay` and `hop` are part of it: a retry copy or a replay keeps its id and is no
    duplicate of what it was copied from.
    """

    handler: str
    topic: str
    id: str
    replay: int = 0
    hop: int = 0


class Log(NamedTuple):
    """One incarnation of a partition: a topic made anew has another topic id.

    `topic_id` is the topic's name where the broker offers no ids.
    """

    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """How often the handler was called for a message in doubt, and what was decided.

    `decided` is the runtime's own text: present when the handler is never to be called
    again for this mark, only the copy to be sent. `due` is when it is to be called again.
    """

    calls: int
    decided: str | None = None
    first_failed_at: float | None = None  # seconds since the epoch
    due: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the loop writes, in one transaction.

    `ids` are those of first arrivals (replay 0, hop 0) with an id of their own, by handler
    and topic; `seen` are marks of such messages one by one, copies and replays included;
    `done` are offsets of messages whose id is their position, by handler and log, added to
    what is stored; `attempts` are written, replacing what stood there; for every mark in
    `settled` the attempt is removed; `skipped` are counts of duplicates by handler, added to
    what is stored, for people; `places` are the offsets below which all is done, replacing
    what stood there; `cut` are logs that were truncated: all that was known by a position at or
    above that offset is forgotten (offsets, places, marks and attempts of messages whose id is
    their position) before the rest is written, for other messages stand there from now on.

    `done` may name offsets that Kafka never delivers (compacted away, transaction markers):
    closing such gaps keeps what is stored short.
    """

    seen: Sequence[Mark] = ()
    done: Mapping[tuple[str, Log], Ranges] | None = None
    topics: Mapping[str, str] | None = None  # topic id -> topic name, for people
    attempts: Mapping[Mark, Attempt] | None = None
    settled: Sequence[Mark] = ()
    skipped: Mapping[str, int] | None = None
    ids: Mapping[tuple[str, str], Sequence[str]] | None = None
    places: Mapping[Log, int] | None = None
    cut: Mapping[Log, int] | None = None


class Lane(NamedTuple):
    """Messages of one topic and key, which are sent in their order; those without a key, too."""

    topic: str
    key: bytes | None


class Waiting(NamedTuple):
    """A message of the outbox, by its number; `failed`: it was kept because of an error."""

    number: int
    output: Output
    failed: bool


class Outbox(Protocol):
    """Messages that wait to be sent, in a file that several processes share.

    Every method belongs to one thread, and raises StoreError like a store's.
    """

    def claim(self, limit: int) -> list[Waiting] | None:
        """Take on up to so many, the oldest first: nobody else sends them as long as this
        process lives and holds them. None is taken on that must wait for an earlier one of
        its lane, which somebody else has. None when another process has its turn."""

    def posted(
        self, sent: Sequence[int], rejected: Mapping[int, str], *, patience: float = 0.0
    ) -> bool:
        """Remove what Kafka has acknowledged; keep what it will never take for a person, with
        the reason. False when another process has its turn: nothing was written."""


class Keeper(Outbox, Protocol):
    """An outbox that messages are put into."""

    def keep(self, held: Sequence[Output], loose: Sequence[Output], error: str) -> list[int]:
        """Write these, durably, in this order; the numbers of those `held`, which are on their
        way already, so that nobody else sends them meanwhile."""

    def keep_rejected(self, outputs: Sequence[Output], errors: Sequence[str]) -> None:
        """Write what Kafka will never take, for a person, with the reasons."""

    def take(self, numbers: Sequence[int], *, in_order: bool = True) -> list[int]:
        """Take on these, what was rejected as well; which of them. Those that somebody else has
        are not, nor, `in_order`, what must wait for an earlier one of its lane."""

    def read(self, numbers: Sequence[int]) -> list[Waiting]:
        """These, which were taken on."""

    def behind(self) -> Mapping[Lane, int]:
        """The lanes of which messages wait that are not taken on by us, and how many."""

    @property
    def used(self) -> int:
        """Bytes of all that is there."""

    def bind(self, cluster: str) -> None:
        """Say to which cluster it is sent. Raises StoreError where it is another's."""

    def close(self) -> None:
        """Let go of what was taken on, and close; safe to call twice."""


class Store(Outbox, Protocol):
    """Memory of one group on one host, shared by its processes.

    Every method belongs to one thread. Each raises StoreError for a store that cannot be
    used any more, with the file and the way out.
    """

    def seen(self, marks: Sequence[Mark]) -> set[Mark]:
        """Which of these were recorded."""

    def seen_ids(self, handler: str, topic: str, ids: Sequence[str]) -> set[str]:
        """Which of these were recorded as first arrivals, in `Turn.ids` or `Turn.seen`: the
        question of every batch, and the fast way to ask it."""

    def done(self, handler: str, log: Log) -> Ranges:
        """The offsets of this log that this handler has settled by position; a copy."""

    @property
    def doubts(self) -> bool:
        """Whether any attempt is known at all: as a rule none is, and need not be asked for."""

    def attempts(self, marks: Sequence[Mark]) -> dict[Mark, Attempt]:
        """What is known of those that were tried and not settled."""

    def record(self, turn: Turn, *, patience: float = 0.0) -> bool:
        """Write the turn durably. False, at once or after `patience` seconds, when another
        process has its turn, or there is no room on its disk (`has_room`): nothing was
        written, ask again later."""

    def has_room(self) -> bool:
        """False from a `record` that found no room for it, which then returned False and wrote
        nothing, until there may be room again."""

    def look(self) -> None:
        """Called about once a second. Raises StoreError where what is stored is no longer what
        was opened: removed, replaced, damaged."""

    @property
    def uuid(self) -> str:
        """What tells this store's file from any other."""

    def place(self, log: Log) -> int | None:
        """The last of `Turn.places` for this log."""

    def prune(self, before: float, *, limit: int = 10_000) -> int:
        """Forget marks recorded before that time (seconds since the epoch), the oldest
        first, and attempts that nobody came back to since. It ends after about `limit` of
        each: what one turn wrote may go at once, and a store may stop earlier. How many marks
        were forgotten; 0 also when another process has its turn. A mark that was recorded
        again may be kept until the last time is before that time."""

    def forget(
        self,
        *,
        id: str | None = None,
        handler: str | None = None,
        topic: str | None = None,
        patience: float = 0.0,
    ) -> int | None:
        """Forget the marks, offsets and attempts that agree with all that is given, which must
        be something. `id` may be a position, as topic/partition/offset. How many they were;
        None when another process has had its turn for `patience` seconds,
        and nothing was forgotten. What a worker that runs holds in memory it remembers until
        it ends."""

    @property
    def size(self) -> int:
        """Bytes that it takes, 0 where that cannot be told; asked once a second."""

    def close(self) -> None:
        """Flush and close; safe to call twice."""


class Lender(Protocol):
    """A store's file on a connection of its own, which is lent to handlers.

    One transaction at a time, from `begin` to `commit` or `rollback`; nobody else writes
    meanwhile. Every method belongs to the thread that opened it, and raises StoreError like a
    store's.
    """

    def begin(self, patience: float) -> bool:
        """Begin a transaction; False when others have had their turn, or the disk no room, for
        so many seconds."""

    def known(self, marks: Sequence[Mark], log: Log | None, offset: int) -> bool:
        """Whether any of these marks was recorded; or, where `log` is given, that offset of it
        by any of their handlers."""

    def full(self, error: BaseException) -> bool:
        """Whether an error is about a disk without room, and so nobody's fault."""

    def lent(self, seconds: float) -> AbstractContextManager[sqlite3.Connection]:
        """The connection, for a handler and so many seconds: what takes longer is interrupted
        and rolled back, and whatever would end the transaction raises."""

    @property
    def whole(self) -> bool:
        """Whether the transaction is still the one that was begun."""

    def commit(self, turn: Turn, outputs: Sequence[Output]) -> None:
        """Write the turn, and the outputs into the outbox, beside what the handler wrote,
        durably. Raises sqlite3.Error where what the handler did cannot be committed, or where
        there is no room for it (`full`), when all of it is rolled back."""

    def rollback(self) -> None:
        """Undo it all."""

    def close(self) -> None:
        """Roll back what was begun, and close."""


__all__ = [
    "Attempt",
    "Keeper",
    "Lender",
    "Lane",
    "Log",
    "Mark",
    "Outbox",
    "Store",
    "Turn",
    "Waiting",
]
