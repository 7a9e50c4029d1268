"""A message with its handler: what travels through the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..facts import HandlerInfo
from ..handlers import Handler
from ..message import AnyMessage, Message, Position, Record
from ..stores.api import Log, Mark
from .ledger import Ledger

LaneKey = tuple[str, str, int, bytes | None]


@dataclass(slots=True, eq=False)
class Work:
    """One record on its way to one handler.

    `handler` is None where a copy names a handler this worker does not have. `hop` counts
    the copies that led here, `calls` the handler's calls made so far. `by_position` says that
    the id is the position, so that the mark is kept as an offset of `log`.
    """

    record: Record
    ledger: Ledger
    handler: Handler | None
    mark: Mark
    original: Position
    timestamp: float | None  # seconds since the epoch: the producer's
    log: Log | None = None  # set where the id is the position
    calls: int = 0
    arrived_through: float | None = None  # the delay of the retry topic it came through
    first_failed_at: float | None = None  # seconds since the epoch
    broken: str | None = None  # why it cannot even be decoded
    noted: bool = False  # the store holds an attempt of it
    started: float | None = None  # monotonic: when the handler's call began
    seconds: float = 0.0  # that its handler ran
    seen_as: AnyMessage | None = None  # what the handler got
    twins: list[Work] = field(default_factory=list)  # the same mark, behind this one

    @property
    def ours(self) -> bool:
        return self.ledger.ours

    @property
    def fact(self) -> HandlerInfo:
        """Its handler as hooks are told; of one that is not here, the name alone."""
        handler = self.handler
        return HandlerInfo(self.mark.handler, handler.topics if handler is not None else ())

    @property
    def lane(self) -> LaneKey | None:
        """What runs one at a time with this; None where it may run beside anything."""
        handler, record = self.handler, self.record
        if handler is None or handler.order == "none":
            return None
        if handler.order == "partition":
            return (handler.name, record.topic, record.partition, None)
        if record.key is None:
            return None
        return (handler.name, record.topic, record.partition, record.key)

    def message(self) -> AnyMessage:
        """The message for those who are told of it; its value undecoded where no handler saw it."""
        if self.seen_as is None:
            record = self.record
            self.seen_as = Message(
                record.value,
                raw=record.value,
                key=record.key,
                headers=record.headers,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp=self.timestamp,
                id=self.mark.id,
                attempt=max(1, self.calls),
                replay=self.mark.replay,
                original=self.original,
            )
        return self.seen_as
