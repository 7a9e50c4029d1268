"""`--max-messages N`: no handler is given more, and what was given is finished."""

from __future__ import annotations

from collections.abc import Callable

from .work import Work

Place = tuple[str, int, int]


class Quota:
    """How many messages may still be handed to handlers; one that several handlers take counts
    once, a retry that comes back from its topic counts again.

    `over` is called once, when all that were taken are finished. Only the loop's thread
    touches it.
    """

    def __init__(self, most: int, over: Callable[[], None]) -> None:
        self._most = most
        self._over = over
        self._taken: set[Place] = set()
        self._open: set[Work] = set()
        self._told = False

    def admits(self, work: Work) -> bool:
        """Whether this one may go to its handler; if not it stays unfinished."""
        record = work.record
        place = (record.topic, record.partition, record.offset)
        if place not in self._taken:
            if len(self._taken) >= self._most:
                return False
            self._taken.add(place)
        self._open.add(work)
        return True

    def closed(self, work: Work) -> None:
        """It is finished, whatever became of it."""
        self._open.discard(work)

    def look(self) -> None:
        """Say that it is over when it is: what went to another member is that one's."""
        if self._told or len(self._taken) < self._most:
            return
        self._open = {work for work in self._open if work.ours}
        if not self._open:
            self._told = True
            self._over()
