"""Between the loop and the producer: nobody waits for room in its queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .delivery.api import Shipment


class Post:
    """Hands messages to the producer, in order; what it has no room for waits here.

    Each belongs to a message in flight, so there are no more of them than those may have.
    `offer` says at once whether the producer took one. Only the loop's thread touches it.
    """

    def __init__(self, offer: Callable[[Shipment], bool]) -> None:
        self._offer = offer
        self._waiting: deque[Shipment] = deque()

    def send(self, one: Shipment) -> None:
        if self._waiting or not self._offer(one):
            self._waiting.append(one)

    def turn(self) -> None:
        """Go on with what waits, as far as there is room now."""
        while self._waiting:
            one = self._waiting[0]
            # What belongs to a partition that has gone is its new owner's to send.
            if one.work.ours and not self._offer(one):
                return
            self._waiting.popleft()
