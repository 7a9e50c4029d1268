"""What a delivery mode promises the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...kafka.api import Receipt, Refusal
from ...message import Headers
from ...outcome import Outcome
from ..ledger import Ledger
from ..work import Work


@dataclass(frozen=True, slots=True)
class Hands:
    """What a delivery mode asks of the loop, each a call on the loop's thread.

    `closed`: this work is settled and recorded. `again`: call its handler again after that
    many seconds. `later`: call a function after that many seconds.
    """

    closed: Callable[[Work, Outcome], None]
    again: Callable[[Work, float], None]
    later: Callable[[float, Callable[[], None]], None]


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

    def settle(self, work: Work, outcome: Outcome) -> None:
        """A handler has ended so."""

    def give_up(self, work: Work, disposition: str, error: BaseException) -> None:
        """The message is dead-lettered without its handler being called."""

    def resume(self, work: Work, decided: str) -> None:
        """Carry out what was decided about this work before a crash."""

    def answered(self, shipment: Shipment, answer: Receipt | Refusal) -> None:
        """Kafka's answer to one shipment."""

    def record(self, patience: float = 0.0) -> None:
        """Make this turn's ends durable, then close what is settled. What could not be
        recorded, because another process has its turn, waits for the next call."""

    @property
    def pending(self) -> int:
        """Works that have ended and are not closed yet."""

    def holds(self, ledgers: set[Ledger]) -> bool:
        """Whether works of these ledgers have ended and are not closed yet."""

    retried: int
    dead_lettered: int
