"""What a delivery mode promises the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...kafka.api import CommitResult, Committed
from ...message import Headers, Partition
from ...outcome import Outcome
from ..ledger import Ledger
from ..work import Work

BUSY = 0.005  # seconds that the loop waits for handlers before it looks at Kafka again


@dataclass(frozen=True, slots=True)
class Hands:
    """What a delivery mode asks of the loop, each a call on the loop's thread.

    `enter`: let these works wait for their turns in their lanes. `closed`: these works are
    settled and recorded, and their parts of their offsets closed. `again`: call a work's handler
    again after that many seconds. `later`: call a function after that many seconds. `points`:
    what may be committed and is not yet, of these partitions or (None) of all; it may wait so
    many seconds for the store. `committed`: what became of a commit of these; whether it is worth
    trying again at once, with shorter notes. `begin_again`: what became of these partitions'
    messages is not known; read them from where Kafka says. `stuck`: the work's partition waits,
    for that reason.
    """

    enter: Callable[[Sequence[Work]], None]
    closed: Callable[[Sequence[tuple[Work, Outcome]]], None]
    again: Callable[[Work, float], None]
    later: Callable[[float, Callable[[], None]], None]
    points: Callable[[Iterable[Partition] | None, float], dict[Partition, Committed]]
    committed: Callable[[Mapping[Partition, Committed], CommitResult], bool]
    begin_again: Callable[[Iterable[Partition]], None]
    stuck: Callable[[Work, str], None]


class Shipment:
    """One message on its way to Kafka on behalf of a work."""

    __slots__ = ("headers", "key", "topic", "tries", "value", "work")

    def __init__(
        self, work: Work, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        self.work = work
        self.topic = topic
        self.key = key
        self.value = value
        self.headers = headers
        self.tries = 0


class Delivery(Protocol):
    """Carries out what became of messages. Only the loop's thread touches it."""

    def admit(self, works: Sequence[Work]) -> None:
        """These works may go to their handlers, as far as others are concerned."""

    def settle(self, results: Sequence[tuple[Work, Outcome]]) -> None:
        """Handlers have ended so."""

    def give_up(self, work: Work, disposition: str, error: BaseException) -> None:
        """The message is dead-lettered without its handler being called."""

    def resume(self, work: Work, decided: str) -> None:
        """Carry out what was decided about this work before a crash."""

    def answered(self, sent: Any, answer: Any) -> None:
        """The answer to something that this delivery has sent."""

    def record(self, patience: float = 0.0) -> None:
        """Make this turn's ends durable, then close what is settled. What could not be
        recorded, because another process has its turn, waits for the next call."""

    def commit(self, patience: float = 0.0) -> None:
        """Tell Kafka up to where everything is done, without waiting for its answer; wait so
        many seconds for the store."""

    def commit_last(self, partitions: Iterable[Partition], patience: float) -> None:
        """The last commit of partitions that move away once this returns; waits for the
        answer."""

    @property
    def pending(self) -> int:
        """Works that have ended and are not closed yet."""

    @property
    def committing(self) -> bool:
        """Whether Kafka has not yet answered a commit."""

    def heard(self, partition: Partition, point: Committed) -> None:
        """What the last owner of a partition that is ours now has committed."""

    @property
    def patience(self) -> float:
        """Seconds that the loop may wait for handlers before it looks at Kafka again."""

    def close(self) -> None:
        """The loop is over: let go of what belongs to this delivery."""

    def holds(self, ledgers: set[Ledger]) -> bool:
        """Whether works of these ledgers have ended and are not closed yet."""

    retried: int
    dead_lettered: int
    lost: int  # committed, and not known to be finished
