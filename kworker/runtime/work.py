"""A message with its handler: what travels through the runtime."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ..context import Timebox
from ..facts import HandlerInfo
from ..handlers import Handler
from ..message import AnyMessage, Message, Position, Record
from ..note import Doubt
from ..stores.api import Log, Mark
from .ledger import Ledger

UNREAD = object()  # stands for a value that was not decoded

NO_DOUBT = Doubt(0)


class Scope:
    """One handler and one original topic: what a message id counts within.

    `handler` is None where a copy names a handler that this worker does not have. `flying`
    holds the works that were admitted and have not landed, by what their id counts as.
    """

    __slots__ = ("fact", "flying", "handler", "holds", "name", "part", "topic")

    def __init__(self, name: str, topic: str, handler: Handler | None) -> None:
        self.name = name
        self.topic = topic
        self.handler = handler
        self.part = 1  # of each offset of the topic, a bit
        self.holds = handler is not None and handler.holds
        self.flying: dict[object, Work] = {}
        self.fact = HandlerInfo(name, handler.topics if handler is not None else ())


class Work:
    """One record on its way to one handler.

    `log` is set where the message brought no id, so that its position is its id and is kept
    as an offset of that log. `hop` counts the copies that led here, `calls` the handler's
    calls made so far. A plain class with slots: one is made for every message.
    """

    __slots__ = (
        "_id",
        "arrived_through",
        "broken",
        "calls",
        "first_failed_at",
        "flight",
        "hop",
        "ledger",
        "log",
        "noted",
        "origin",
        "part",
        "record",
        "replay",
        "scope",
        "seconds",
        "seen_as",
        "sent_at",
        "started",
        "timebox",
        "twins",
        "value",
    )  # fmt: skip

    def __init__(
        self, record: Record, ledger: Ledger, scope: Scope, id: str | None, log: Log | None
    ) -> None:
        self.record = record
        self.ledger = ledger
        self.scope = scope
        self.part = scope.part
        self._id = id
        self.flight: object = id  # what twins have in common; None where there can be none
        self.log = log
        self.hop = 0
        self.replay = 0
        self.calls = 0
        self.noted = False  # the store holds an attempt of it
        self.broken: str | None = None  # why it cannot even be decoded
        self.arrived_through: float | None = None  # the delay of the retry topic it came through
        self.first_failed_at: float | None = None  # seconds since the epoch
        self.origin: Position | None = None  # where it arrived first, if not here
        self.sent_at = record.timestamp  # by its producer; seconds since the epoch
        self.started: float | None = None  # monotonic: when the handler's call began
        self.seconds = 0.0  # that its handler ran
        self.timebox: Timebox | None = None  # how long its call may take
        self.value: Any = UNREAD  # decoded, as the handler got it
        self.seen_as: AnyMessage | None = None  # what the handler got, or would have
        self.twins: list[Work] | None = None  # the same mark, behind this one

    @property
    def id(self) -> str:
        """What deduplication goes by."""
        if self._id is None:
            assert self.log is not None
            self._id = f"{self.log.topic_id}/{self.record.partition}/{self.record.offset}"
        return self._id

    @property
    def mark(self) -> Mark:
        scope = self.scope
        return Mark(scope.name, scope.topic, self.id, self.replay, self.hop)

    @property
    def marks(self) -> list[Mark]:
        """Its mark, and those it had under former names of its handler."""
        handler, mark = self.scope.handler, self.mark
        aliases = handler.aliases if handler is not None else ()
        return [mark, *(mark._replace(handler=alias) for alias in aliases)]

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the other works of its ledger."""
        return self.scope.name, self.record.offset

    @property
    def original(self) -> Position:
        """Where the message arrived first."""
        record = self.record
        return self.origin or Position(record.topic, record.partition, record.offset)

    @property
    def ours(self) -> bool:
        return self.ledger.ours

    def keep_in_doubt(self, decided: str | None, due: float | None = None) -> None:
        """It was tried, and the store knows: that goes with the partition, too."""
        self.noted = True
        doubts = self.ledger.doubts
        known = doubts.get(self.key, NO_DOUBT)
        until = None if due is None else math.ceil(due)
        doubts[self.key] = Doubt(self.calls, decided, until, known.deaths, known.alone)

    def message(self) -> AnyMessage:
        """The message for those who are told of it: its value undecoded where no handler saw it,
        its attempt the number of calls so far."""
        seen = self.seen_as
        if seen is None or seen.attempt < self.calls:
            value = self.record.value if seen is None else seen.value
            self.seen_as = seen = self.message_of(
                value if self.value is UNREAD else self.value, self.calls
            )
        return seen

    def message_of(self, value: Any, attempt: int) -> AnyMessage:
        """The message with this value, as a handler gets it in this attempt."""
        record = self.record
        return Message(
            value,
            raw=record.value,
            key=record.key,
            headers=record.headers,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=self.sent_at,
            id=self.id,
            attempt=attempt,
            replay=self.replay,
            original=self.origin,
        )


def close(works: Iterable[Work]) -> None:
    """Finish the parts that these works are of their offsets."""
    parts: defaultdict[tuple[Ledger, int], list[Record]] = defaultdict(list)
    for work in works:
        parts[work.ledger, work.part].append(work.record)
    for (ledger, part), records in parts.items():
        ledger.close(records, part)
