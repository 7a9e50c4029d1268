"""What handlers published in their own transactions: sent afterwards, and removed once Kafka has
it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from ..clock import Clock, Every
from ..kafka.api import Receipt, Refusal
from ..message import Headers
from ..outcome import Output
from ..stores.api import Store, Turn

log = logging.getLogger("kworker.runtime")

SWEEP = 10.0  # seconds between two looks for what nobody sends
FORGOTTEN = 30.0  # seconds after which whoever wrote it is not going to send it any more
RESEND = 1.0, 30.0  # seconds: first and longest pause before it is sent again


class Parcel:
    """One output on its way to Kafka, under its number in the store."""

    __slots__ = ("headers", "key", "number", "topic", "tries", "value")

    def __init__(self, number: int, output: Output) -> None:
        self.number = number
        self.topic: str = output.topic
        self.key: bytes | None = output.key
        self.value: bytes | None = output.value
        self.headers: Headers = output.headers
        self.tries = 0


class Outbox:
    """Sends each at least once, always under the id it was published with.

    At its start it takes what is there, as from a process that was killed; two processes may
    send one message then, under its one id. Only the loop's thread touches it.
    """

    def __init__(
        self,
        store: Store,
        send: Callable[[Parcel], None],
        later: Callable[[float, Callable[[], None]], object],
        clock: Clock,
    ) -> None:
        self._store = store
        self._send = send
        self._later = later
        self._clock = clock
        self._out: dict[int, Parcel] = {}  # until the store has let go of them
        self._sent: list[int] = []
        self._look = Every(clock, SWEEP)
        self._begun = False

    @property
    def pending(self) -> bool:
        """Whether some are on their way; one that was refused is waited for by nobody."""
        return bool(self._sent) or any(not one.tries for one in self._out.values())

    def take(self, outputs: Iterable[tuple[int, Output]]) -> None:
        """Send these, as far as they are not on their way."""
        for number, output in outputs:
            if number not in self._out:
                parcel = self._out[number] = Parcel(number, output)
                self._send(parcel)

    def turn(self, patience: float = 0.0) -> None:
        """Let the store know what was acknowledged; look for what nobody sends."""
        if not self._begun:
            self._begun = True
            self.take(self._store.outbox(self._clock.wall()))
        elif self._look.due():
            self.take(self._store.outbox(self._clock.wall() - FORGOTTEN))
        if self._sent and self._store.record(Turn(sent=self._sent), patience=patience):
            for number in self._sent:
                del self._out[number]
            self._sent = []

    def answered(self, parcel: Parcel, answer: Receipt | Refusal) -> None:
        """Kafka's answer; what it refuses stays in the store, and is told and sent again."""
        if isinstance(answer, Receipt):
            parcel.tries = 0
            self._sent.append(parcel.number)
            return
        first, longest = RESEND
        pause = min(longest, first * 2.0**parcel.tries)
        parcel.tries = min(parcel.tries + 1, 16)
        log.error(
            "%s does not take a message that was published in a Transaction: %s; it stays in the "
            "outbox, trying again in %g s", parcel.topic, answer.text, pause,
            extra={"topic": parcel.topic, "number": parcel.number},
        )  # fmt: skip
        self._later(pause, lambda: self._send(parcel))
